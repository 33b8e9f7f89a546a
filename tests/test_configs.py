"""Every config and argument loads, freezes and builds; small ones trace."""

import functools
import importlib
import pathlib

import jax
import pytest

from bigscale.models.make import make_model
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train.build import build

MODULES = {
  path.stem: importlib.import_module(f"configs.{path.stem}")
  for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
  if path.stem != "__init__"
}
NAMES = sorted(MODULES)
# For a file with arguments, the default is the first entry of ARGS.
ARGS = {name: getattr(MODULES[name], "ARGS", ()) for name in NAMES}
CASES = [(name, arg) for name in NAMES for arg in ARGS[name] or (None,)]
IDS = [f"{name}:{arg}" if arg else name for name, arg in CASES]


def specs_of(name, arg):
  """Returns the full-size spec and the small test spec."""
  module, args = MODULES[name], () if arg is None else (arg,)
  full, small = module.get_config(*args), module.get_test_config(*args)
  return from_config(full), from_config(small)


@functools.cache
def sizes(model):
  """Returns the numbers of parameters of G and D, computed from shapes."""
  networks = make_model(model, "tpu")
  shapes = [
    jax.eval_shape(network.init, jax.random.key(0))["params"]
    for network in (networks.g, networks.d)
  ]
  return [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in shapes]


@pytest.mark.parametrize(("name", "arg"), CASES, ids=IDS)
def test_full_size_networks_can_be_made(name, arg):
  full, small = specs_of(name, arg)
  assert min(sizes(full.model)) > max(sizes(small.model)) > 0


@pytest.mark.parametrize(("name", "arg"), CASES, ids=IDS)
def test_the_test_config_is_a_small_version_of_the_run(name, arg):
  full, small = specs_of(name, arg)
  assert type(small.model) is type(full.model)
  assert small.loss.adversarial == full.loss.adversarial
  assert small.optim == full.optim
  assert small.total_steps <= 8
  sources = [part.source for part in small.data.mixture or (small.data,)]
  for source in sources:
    embedded = source in ("emoji", "fashion_mnist")
    assert embedded or source.startswith("synthetic:")


def kinds_of_steps():
  """Returns default runs whose step programs differ in more than sizes."""
  kinds = {}
  for name in NAMES:
    _, small = specs_of(name, (ARGS[name] or (None,))[0])
    many = small.optim.d_steps > 1
    kind = type(small.model), small.loss.adversarial, small.augment.pipe, many
    kinds.setdefault(kind, name)
  return list(kinds.values())


# Tracing takes half a minute.
_TRACED_SLOWLY = ("biggan_deep",)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in _TRACED_SLOWLY))
    for name in kinds_of_steps()
  ],
)
def test_a_step_traces(name):
  _, small = specs_of(name, (ARGS[name] or (None,))[0])
  built = build(small, make_mesh(MeshSpec(), jax.devices()[:1]))
  state, scalars = jax.eval_shape(
    built.step, built.abstract_state, built.abstract_batch
  )
  assert jax.tree.structure(state) == jax.tree.structure(built.abstract_state)
  assert {"d/loss", "g/loss", "d/grad_norm", "g/grad_norm"} <= scalars.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if ARGS[name]])
def test_arguments(name):
  """The first argument is the default, and an unknown one raises an error."""
  module, first = MODULES[name], ARGS[name][0]
  assert from_config(module.get_config()) == specs_of(name, first)[0]
  specs = {specs_of(name, arg)[0] for arg in ARGS[name]}
  assert len(specs) == len(ARGS[name]), "two arguments give the same run"
  for get in (module.get_config, module.get_test_config):
    with pytest.raises(SpecError, match="'huge'") as refusal:
      get("huge")
    assert all(arg in str(refusal.value) for arg in ARGS[name])


@pytest.mark.parametrize(("name", "arg"), CASES, ids=IDS)
def test_the_header_contains_the_command(name, arg):
  doc = MODULES[name].__doc__
  assert f"bigscale train --config={name}" in doc
  assert arg is None or arg in doc, "the header does not mention the argument"


@pytest.mark.parametrize(
  ("name", "arg", "g_lr", "d_lr", "d_steps", "batch", "average"),
  [
    ("biggan", "128", 5e-5, 2e-4, 2, 2048, 0.9999),
    ("biggan", "512", 5e-5, 2e-4, 2, 2048, 0.9999),
    ("biggan_deep", "128", 5e-5, 2e-4, 2, 2048, 0.9999),
    ("biggan_deep", "256", 2.5e-5, 2.5e-5, 2, 2048, 0.9999),
    ("biggan_deep", "512", 2.5e-5, 2.5e-5, 2, 2048, 0.9999),
    ("biggan_table1", "sagan", 1e-4, 4e-4, 1, 256, 0.0),
    ("biggan_table1", "bs512", 5e-5, 2e-4, 2, 512, 0.9999),
    ("sngan", None, 2e-4, 2e-4, 5, 64, 0.0),
  ],
)
def test_published_recipes(name, arg, g_lr, d_lr, d_steps, batch, average):
  full, _ = specs_of(name, arg)
  assert (full.optim.g_lr.last, full.optim.d_lr.last) == (g_lr, d_lr)
  assert (full.optim.d_steps, full.global_batch_size) == (d_steps, batch)
  assert full.optim.ema_decay == average
  assert full.optim.beta1 == 0


# Millions of parameters of G and D together: Brock et al. 2019, Table 1.
TABLE_1 = {
  "sagan": 81.5,
  "bs512": 81.5,
  "bs1024": 81.5,
  "bs2048": 81.5,
  "ch96": 173.5,
  "shared": 160.6,
  "skipz": 158.3,
  "ortho": 158.3,
  "ch64": 71.3,
}


def test_table_1_matches_the_sizes_in_the_paper():
  assert tuple(TABLE_1) == ARGS["biggan_table1"]
  for arg, millions in TABLE_1.items():
    full, _ = specs_of("biggan_table1", arg)
    assert sum(sizes(full.model)) / 1e6 == pytest.approx(millions, abs=0.15)


def test_table_1_steps_match_the_header():
  for arg, row in MODULES["biggan_table1"].ROWS.items():
    full, _ = specs_of("biggan_table1", arg)
    assert full.total_steps == 1000 * row.steps
    assert full.global_batch_size == row.batch
    line = next(
      line
      for line in MODULES["biggan_table1"].__doc__.splitlines()
      if line.startswith(f"| {arg} |")
    )
    _, batch, width, size, *crosses, steps, _, _ = [
      cell.strip() for cell in line.strip("| ").split("|")
    ]
    assert (int(batch), int(width)) == (row.batch, row.ch)
    assert float(size) == TABLE_1[arg]
    assert [cross == "x" for cross in crosses] == [
      row.shared,
      row.skip_z,
      row.ortho,
    ]
    assert int(steps) == row.steps


def test_sngan_matches_miyato_et_al():
  """Spectral norm is only in D; sizes are counted from the Chainer code."""
  full, _ = specs_of("sngan", None)
  model = make_model(full.model, "tpu")
  assert not model.g.spectral("block0/conv1/kernel")
  assert model.d.spectral("block0/conv1/kernel")
  assert sizes(full.model) == [41_996_931, 30_041_857]
