"""A family outside the package trains when a config names it."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import toy_family

from bigscale.cli.main import main
from bigscale.models.make import make_model
from bigscale.models.networks import gan_model
from bigscale.parallel.mesh import make_mesh
from bigscale.report import write_report
from bigscale.scaling import families, rules
from bigscale.scaling.flops import training_flops
from bigscale.scaling.network_cost import parameters
from bigscale.spec import ModelBase, SpecError, from_config, from_json, to_json
from bigscale.train import loop
from bigscale.train.build import build

NAME = "toy_family:ToySpec"


def config_of(**changes):
  config = ConfigDict(
    {
      "global_batch_size": 8,
      "total_kimg": 0.016,
      "model": {
        "name": NAME,
        "resolution": 8,
        "image_channels": 1,
        "num_classes": 10,
        "latent_dim": 8,
        "width": 8,
        "num_singular_values": 1,
      },
      "data": {"source": "fashion_mnist"},
      "loss": {"adversarial": "hinge", "r1_gamma": 0.1},
      "optim": {"g_lr": 1e-3, "d_lr": 1e-3},
      "evaluate": {"num_samples": 100, "batch_size": 50, "classifier_steps": 4},
      "log": {"steps": 1, "num_samples": 10, "tensorboard": False},
      "mesh": {"data": 1, "fsdp": 2, "weights": "zero"},
      "monitor": {"interval": 1},
    }
  )
  config.update(changes)
  return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("toy")
  spec = from_config(config_of())
  built = build(spec, make_mesh(spec.mesh, jax.devices()[:2]))
  done = loop.train(spec, folder, prepared=loop.Prepared(built))
  return folder, built, done


def rows(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_training_with_scores_and_the_monitor(run):
  folder, _, done = run
  assert np.isfinite(done.scores["fd_classifier"])
  row = next(row for row in rows(folder) if row["step"] == 2)
  # D's last layer is found by tracing, and its input features are compared.
  assert np.isfinite(row["g/effective_rank"])
  assert row["perf/total_flops"] == 2 * training_flops(run[1].spec).per_step
  assert any(name.startswith("g/sigma0/Block_0") for name in row)
  assert NAME in (folder / "spec.json").read_text()


def test_resume_and_report(run):
  folder, built, _ = run
  longer = dataclasses.replace(built.spec, total_kimg=0.024)
  prepared = loop.Prepared(built._replace(spec=longer))
  loop.train(longer, folder, prepared=prepared)
  assert rows(folder)[-1]["step"] == 3
  assert "toy_family" in write_report(folder).read_text()


def test_json_round_trip_of_the_spec():
  spec = from_config(config_of())
  assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
  assert spec.model.name == NAME
  assert type(spec.model)(resolution=8).name == NAME


def test_all_modes_of_weights_give_the_same_numbers(run):
  _, built, _ = run
  losses = []
  for weights in ("replicated", "fsdp"):
    mesh = dataclasses.replace(built.spec.mesh, weights=weights)
    spec = dataclasses.replace(built.spec, mesh=mesh)
    other = build(spec, make_mesh(mesh, jax.devices()[:2]))
    losses.append(first_step(other))
  losses.append(first_step(built))
  for found in losses[1:]:
    np.testing.assert_allclose(found, losses[0], rtol=2e-5)


def first_step(built):
  draw = np.random.default_rng(0)
  batch = built.abstract_batch
  images = draw.integers(0, 256, batch.images.shape, np.uint8)
  labels = draw.integers(0, 10, batch.labels.shape, np.int32)
  given = jax.device_put(
    type(batch)(images, labels), jax.tree.map(lambda x: x.sharding, batch)
  )
  _, scalars = built.step(built.init(np.int32(0)), given)
  names = ("d/loss", "g/loss", "d/r1")
  return [float(scalars[name]) for name in names]


def test_models_of_other_widths(run):
  spec = run[1].spec
  found = families.member(
    spec.model, families.of_parameters(50_000), tolerance=0.3
  )
  assert abs(parameters(found.model).total / 50_000 - 1) < 0.3
  wider = rules.rescaled(spec, model=found.model, width_rule="inverse")
  ratio = found.model.width / spec.model.width
  assert wider.optim.g_lr.first == pytest.approx(1e-3 / ratio)


def test_command_line_flags_set_fields(tmp_path, capsys):
  file = tmp_path / "toy.py"
  file.write_text(
    "from ml_collections import ConfigDict\n"
    f"def get_config():\n  return ConfigDict({config_of().to_dict()!r})\n"
  )
  wrong = [f"--config={file}", "--config.model.heads=3"]
  assert main(["bigscale", "plan", "--topology=v5e:2x2", *wrong]) == 2
  error = capsys.readouterr().err
  assert "model.width=8 is not divisible by model.heads=3; use 6" in error
  unknown = [f"--config={file}", "--config.model.hads=3"]
  assert main(["bigscale", "plan", "--topology=v5e:2x2", *unknown]) == 2
  assert "did you mean 'heads'" in capsys.readouterr().err


@pytest.mark.slow
def test_plan(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  file = tmp_path / "toy.py"
  file.write_text(
    "from ml_collections import ConfigDict\n"
    f"def get_config():\n  return ConfigDict({config_of().to_dict()!r})\n"
  )
  named = [f"--config={file}", "--topology=v5e:2x2", "--mode=zero:4"]
  assert main(["bigscale", "plan", "--json", *named]) == 0
  assert json.loads(capsys.readouterr().out)["fits"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoNetworks(ModelBase):
  """A family without networks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OddNetworks(ModelBase):
  """A family whose `make_networks` returns another object."""

  def make_networks(self, platform, split, gather):
    return gan_model


class NoDataclass(NoNetworks):
  """A family without the dataclass decorator."""


def here(kind):
  return f"{__name__}:{kind.__name__}"


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("bigan", "config.model.name='bigan' must be one of 'biggan', "),
    (7, "config.model.name=7 must be one of 'biggan', "),
    ("no_such_package:Toy", "No module named 'no_such_package'"),
    ("toy_family:Toi", "'toy_family' does not define 'Toi'; it defines "),
    ("toy_family:", "write package.module:Name"),
    ("toy_family:Block", "derives from bigscale.spec.ModelBase"),
    ("json:dumps", "derives from bigscale.spec.ModelBase"),
    (here(NoDataclass), "decorate it with @dataclasses.dataclass("),
  ],
)
def test_invalid_families_are_refused(name, words):
  config = config_of()
  with config.ignore_type():
    config.model.name = name
  with pytest.raises(SpecError) as refused:
    from_config(config)
  assert words in str(refused.value)


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    (NoNetworks, "NoNetworks has no networks: define make_networks(self, "),
    (OddNetworks, "it must return a GanModel"),
  ],
)
def test_a_family_without_networks_is_refused(kind, words):
  with pytest.raises(SpecError) as refused:
    make_model(kind(resolution=8), "cpu")
  assert words in str(refused.value)


def sized(**networks):
  """Returns a toy family with a G or D that returns other arrays."""

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Changed(toy_family.ToySpec):
    def make_networks(self, platform, split, gather):
      g = networks.get("g", toy_family.Generator)(self)
      d = networks.get("d", toy_family.Discriminator)(self)
      return gan_model(g, d, self, gather)

  return Changed(resolution=8, num_classes=10)


class OneImage(toy_family.Generator):
  def __call__(self, latents, labels, *, train):
    return super().__call__(latents[:1], labels[:1], train=train)


class Whole(toy_family.Generator):
  def __call__(self, latents, labels, *, train):
    return super().__call__(latents, labels, train=train).astype(np.int32)


class NoTrain(toy_family.Generator):
  def __call__(self, latents, labels):
    return super().__call__(latents, labels, train=True)


class MeanLogit(toy_family.Discriminator):
  def __call__(self, images, labels):
    return super().__call__(images, labels).mean()


class Column(toy_family.Discriminator):
  def __call__(self, images, labels):
    return super().__call__(images, labels)[:, None]


@pytest.mark.parametrize(
  ("networks", "words"),
  [
    ({"g": OneImage}, "(1, 8, 8, 3) for 2 samples; it must return floating"),
    ({"g": Whole}, "returns int32 (2, 8, 8, 3)"),
    ({"g": NoTrain}, "fails with TypeError"),
    ({"d": MeanLogit}, "returns float32 () for 2 samples"),
    ({"d": Column}, "returns float32 (2, 1) for 2 samples"),
  ],
)
def test_networks_of_wrong_shapes_are_refused(networks, words):
  """Some would train, with each sample broadcast to all others."""
  with pytest.raises(SpecError) as refused:
    make_model(sized(**networks), "cpu")
  assert words in str(refused.value)
  assert "Changed" in str(refused.value)


def test_signatures_and_rules_of_a_family_are_checked():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Bare(toy_family.ToySpec):
    def make_networks(self):
      return None

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Rules(toy_family.ToySpec):
    sharding_rules = ("x",)

  with pytest.raises(SpecError, match="make_networks of Bare fails with Type"):
    make_model(Bare(resolution=8), "cpu")
  with pytest.raises(SpecError, match="sharding_rules of Rules contains 'x'"):
    make_model(Rules(resolution=8), "cpu")


def test_a_family_without_widths_is_refused(run):
  with pytest.raises(SpecError, match="define of_width"):
    families.widths_of(NoNetworks(resolution=8))
  model = NoNetworks(resolution=8)
  same = dataclasses.replace(run[1].spec, model=model)
  rules.rescaled(same, model=model, global_batch_size=16)
  with pytest.raises(SpecError, match="define player_widths"):
    rules.rescaled(same, model=model, width_rule="inverse")
