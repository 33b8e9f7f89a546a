"""Import of tensors as a run: sizes, players, recipes."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from bigscale.configs import biggan as biggan_config
from bigscale.configs import biggan_deep as biggan_deep_config
from bigscale.configs import r3gan as r3gan_config
from bigscale.interop import assemble, formats, r3gan
from bigscale.interop.files import FileError
from bigscale.interop.formats import Players, convert, read_players
from bigscale.interop.recipes import recipe
from bigscale.interop.tensors import TensorsError
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.stripped_stylegan2 import StrippedSpec
from bigscale.ops.spectral import flatten
from bigscale.parallel import compiler
from bigscale.spec import SpecError, from_config, from_json, to_json
from bigscale.train.state import init_state
from tests.interop import synthetic

_GOLDEN = Path(__file__).parents[1] / "golden"
_PLAIN = R3ganSpec(
  resolution=8,
  latent_dim=6,
  widths=(16, 16),
  blocks=(1, 2),
  cardinality=(2, 4),
)
_CONDITIONAL = R3ganSpec(
  resolution=16,
  num_classes=5,
  latent_dim=8,
  widths=(32, 24, 16),
  blocks=(2, 1, 2),
  cardinality=(4, 4, 4),
  class_embedding_dim=8,
)


def _tensors(stem, player):
  with np.load(_GOLDEN / f"{stem}.npz") as data:
    prefix = f"{player}/"
    return {
      key.removeprefix(prefix): data[key]
      for key in data.files
      if key.startswith(prefix)
    }


def _plain(player="G"):
  return _tensors("r3gan_unconditional_8px", player)


def _random(spec: R3ganSpec, player="g"):
  """Random weights under the authors' names."""
  sources = getattr(r3gan, f"{player}_sources")(spec)
  return synthetic.theirs(sources, synthetic.leaves(spec, player))


def _file(path: Path, **players) -> Path:
  """Writes a file of several players; `bare` has no prefix."""
  arrays = {}
  for name, tensors in players.items():
    prefix = "" if name == "bare" else f"{name}/"
    arrays |= {prefix + key: value for key, value in tensors.items()}
  np.savez(path, **arrays)
  return path


# Sizes of an R3GAN.


@pytest.mark.parametrize(
  ("stem", "spec"),
  [
    ("r3gan_unconditional_8px", _PLAIN),
    ("r3gan_conditional_16px", _CONDITIONAL),
  ],
)
def test_r3gan_spec_is_inferred(stem, spec):
  assert r3gan.infer_spec(_tensors(stem, "G")) == spec


def test_every_size_of_r3gan_is_inferred():
  odd = R3ganSpec(
    resolution=8,
    image_channels=1,
    num_classes=3,
    latent_dim=5,
    widths=(12, 8),
    blocks=(3, 1),
    cardinality=(3, 1),
    expansion=0.5,
    class_embedding_dim=2,
  )
  assert r3gan.infer_spec(_random(odd)) == odd


@pytest.mark.parametrize(
  ("lacking", "words"),
  [
    ("MainLayers.", ("MainLayers.*", "another --format")),
    ("MainLayers.0.Layers.0.LinearLayer.weight", ("latent_dim",)),
    ("MainLayers.0.Layers.1.LinearLayer2", ("stage 0", "LinearLayer2")),
  ],
)
def test_missing_tensors_for_inference_are_named(lacking, words):
  tensors = {k: v for k, v in _plain().items() if not k.startswith(lacking)}
  with pytest.raises(TensorsError) as caught:
    r3gan.infer_spec(tensors)
  for word in words:
    assert word in str(caught.value)


def test_r3gan_with_two_expansions_is_refused():
  tensors = _plain()
  layer = "MainLayers.0.Layers.1.LinearLayer1.Layer.weight"
  tensors[layer] = np.zeros((64, 16, 1, 1))
  with pytest.raises(SpecError, match=r"\(64, 32\).* one expansion"):
    r3gan.infer_spec(tensors)


def test_a_damaged_block_is_named_when_the_spec_is_inferred():
  tensors = _tensors("r3gan_conditional_16px", "G")
  del tensors["MainLayers.0.Layers.1.LinearLayer1.Layer.weight"]
  tensors["MainLayers.2.Layers.2.NonLinearity1.Bias"] = np.zeros(3)
  with pytest.raises(TensorsError) as caught:
    convert("r3gan", Players(tensors), None)
  message = str(caught.value)
  assert message.startswith("generator: 2 tensors do not match")
  assert "missing MainLayers.0.Layers.1.LinearLayer1.Layer.weight" in message
  assert "misshaped MainLayers.2.Layers.2.NonLinearity1.Bias (3,)" in message


# Players.


@pytest.mark.parametrize("joint", ["/", "."])
def test_players_are_split_by_prefix(joint):
  names = [f"{p}{joint}{k}" for p in ("G", "D", "G_ema") for k in ("a", "b.c")]
  found = formats.split_players({name: np.zeros(1) for name in names})
  assert [set(player) for player in found] == [{"a", "b.c"}] * 3


def test_without_prefixes_all_tensors_are_the_generator():
  found = formats.split_players({"Gain": np.ones(1), "D": np.ones(1)})
  assert found == Players({"Gain": np.ones(1), "D": np.ones(1)})


@pytest.mark.parametrize("wrapper", ["module.", "Model."])
def test_prefixes_of_a_whole_network_are_removed(wrapper):
  wrapped = {f"G/{wrapper}a": 1, f"G/{wrapper}b": 2, "D/a": 3}
  assert formats.split_players(wrapped) == Players(
    {"a": 1, "b": 2}, {"a": 3}, None
  )


def test_extra_tensors_are_named():
  tensors = {"G/a": np.zeros(1), "out/G": np.zeros((2, 3)), "z": np.zeros(1)}
  with pytest.raises(TensorsError, match="out/G") as caught:
    formats.split_players(tensors)
  assert "extra out/G (2, 3)" in str(caught.value)
  assert "extra z (1,)" in str(caught.value)


def test_players_of_several_files(tmp_path):
  a, b, c = ({"x": np.full(1, value)} for value in (1.0, 2.0, 3.0))
  g = _file(tmp_path / "G.npz", bare=a)
  d = _file(tmp_path / "D.npz", bare=b)
  ema = _file(tmp_path / "E.npz", G_ema=c)
  both = _file(tmp_path / "both.npz", G=a, D=b)
  assert read_players(g, d, ema) == Players(a, b, c)
  assert read_players(both, None, ema) == Players(a, b, c)
  assert read_players(g, both) == Players(a, b)
  # A file with only the average: it becomes the generator too.
  assert read_players(ema) == Players(c, None, c)
  with pytest.raises(FileError, match="both contain a discriminator"):
    read_players(both, d)
  with pytest.raises(FileError, match="contains no generator"):
    read_players(_file(tmp_path / "only.npz", D=b))


# Conversion to networks.


def test_problems_of_all_players_in_one_message():
  g, d = _plain(), _plain("D")
  g["Odd"] = np.zeros(2)
  ema = dict(g)
  del d["ExtractionLayer.Layer.weight"], ema["MainLayers.0.Layers.0.Basis"]
  with pytest.raises(TensorsError) as caught:
    convert("r3gan", Players(g, d, ema), _PLAIN)
  message = str(caught.value)
  assert "generator: 1 tensors do not match" in message
  assert "discriminator: 1 tensors" in message
  assert "moving average: 2 tensors" in message
  assert "missing MainLayers.0.Layers.0.Basis (16, 4, 4)" in message


def test_a_mismatched_field_is_named():
  wrong = dataclasses.replace(_PLAIN, latent_dim=7, bf16_stages=1)
  with pytest.raises(TensorsError) as caught:
    convert("r3gan", Players(_plain()), wrong)
  message = str(caught.value)
  assert "model.latent_dim=7, but the file's shapes imply 6" in message
  assert "bf16_stages" not in message


def test_values_that_are_not_finite_are_named():
  tensors = _plain()
  tensors["MainLayers.0.Layers.0.Basis"][0, 0, 0] = np.nan
  tensors["AggregationLayer.Layer.weight"][:2] = np.inf
  with pytest.raises(TensorsError, match="diverged") as caught:
    convert("r3gan", Players(tensors), None)
  assert "0/basis: 1 of 256 values" in str(caught.value)
  assert "0/to_rgb/kernel: 32 of 48 values" in str(caught.value)


def test_a_model_of_another_family_is_refused():
  with pytest.raises(SpecError, match=r"model.name='r3gan'.*biggan-pytorch"):
    convert("biggan-pytorch", Players(_plain()), _PLAIN)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_tensors_of_another_format_are_refused(name):
  """Every format refuses foreign tensors in one sentence."""
  with pytest.raises(SpecError):
    convert(name, Players({"weights": np.zeros((2, 2))}), None)


class _Own(R3ganSpec):
  formats: ClassVar[dict[str, str]] = {"own": "json"}


def test_a_reading_module_without_a_format_is_named():
  model = _Own(**dataclasses.asdict(_PLAIN))
  with pytest.raises(SpecError, match=r"json, which .* has no FORMAT; add"):
    convert("own", Players({"weights": np.zeros((2, 2))}), model)


# Assembly of a state.


# One stage, because initialization of many tensors is slow to compile.
_SMALL = R3ganSpec(
  resolution=4, latent_dim=3, widths=(4,), blocks=(1,), cardinality=(2,)
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
  folder = tmp_path_factory.mktemp("import")
  path = _file(folder / "g.npz", G=_random(_SMALL))
  return assemble.read_run("r3gan", path, source="fashion_mnist")


def test_missing_parts_are_initialized(imported):
  spec = imported.spec
  fresh = jax.jit(
    functools.partial(init_state, make_model(spec.model, "cpu"), spec),
    compiler_options=compiler.options_to_run_once("cpu"),
  )()
  read = r3gan.generator(_SMALL, _random(_SMALL)).params
  wanted = fresh._replace(
    g=fresh.g._replace(params=read), ema=fresh.ema._replace(params=read)
  )
  assert jax.tree.structure(imported.state) == jax.tree.structure(wanted)
  for ours, theirs in zip(
    jax.tree.leaves(imported.state), jax.tree.leaves(wanted), strict=True
  ):
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_each_file_goes_to_its_player(tmp_path):
  given = {"g": _random(_SMALL), "d": _random(_SMALL, "d")}
  given["ema"] = {name: x + 1 for name, x in given["g"].items()}
  paths = [_file(tmp_path / f"{k}.npz", bare=x) for k, x in given.items()]
  made = assemble.read_run(
    "r3gan", paths[0], d_file=paths[1], ema_file=paths[2]
  )
  for part, sources in (
    ("g", r3gan.g_sources(_SMALL)),
    ("d", r3gan.d_sources(_SMALL)),
    ("ema", r3gan.g_sources(_SMALL)),
  ):
    params = flatten(getattr(made.state, part).params)
    for path, (name, layout) in sources.items():
      theirs = layout.to_file(np.asarray(params[path]))
      np.testing.assert_array_equal(theirs, given[part][name])
  assert made.notes["discriminator"] == "d.npz"
  assert made.notes["average"] == "ema.npz"


def test_notes_state_the_origin_of_each_part(imported):
  notes = imported.notes
  assert notes["generator"] == "g.npz"
  assert "initialized with seed" in notes["discriminator"]
  assert "no file contains one" in notes["average"]
  assert notes["spectra"].startswith("0 from the files")
  assert len(notes["files"][0]["sha256"]) == 64
  assert json.loads(json.dumps(notes)) == notes


# Recipes.


@pytest.mark.parametrize(
  ("config", "argument"),
  [
    (r3gan_config, "cifar10"),
    (r3gan_config, "ffhq64"),
    (r3gan_config, "ffhq256"),
    (r3gan_config, "imagenet32"),
    (r3gan_config, "imagenet64"),
    (biggan_config, "128"),
    (biggan_config, "512"),
    (biggan_deep_config, "128"),
    (biggan_deep_config, "256"),
  ],
)
def test_recipes_match_the_configs(config, argument):
  published = from_config(config.get_config(argument))
  made = recipe(published.model, None)
  # The monitor is not part of a recipe.
  watched = dataclasses.replace(made.spec, monitor=published.monitor)
  assert watched == published
  assert "deep" not in made.name or config is biggan_deep_config


@pytest.mark.parametrize(
  ("model", "gamma", "batch"),
  [
    (dataclasses.replace(_PLAIN), 0.05, 512),
    (R3ganSpec(resolution=64, widths=(8,) * 5, blocks=(1,) * 5,
               cardinality=(1,) * 5), 2.0, 256),
    (R3ganSpec(resolution=32, num_classes=900, widths=(8,) * 4,
               blocks=(1,) * 4, cardinality=(1,) * 4), 0.5, 4096),
    (R3ganSpec(resolution=512, widths=(8,) * 8, blocks=(1,) * 8,
               cardinality=(1,) * 8), 150.0, 256),
  ],
)  # fmt: skip
def test_r3gan_takes_the_nearest_preset(model, gamma, batch):
  spec = recipe(model, "emoji").spec
  assert (spec.loss.r1_gamma.first, spec.global_batch_size) == (gamma, batch)
  assert spec.data.source == "emoji"
  assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


def test_a_family_without_a_recipe_is_refused():
  with pytest.raises(SpecError, match="give --config"):
    recipe(StrippedSpec(resolution=8, widths=(8, 8)), None)
