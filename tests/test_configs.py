"""Every shipped config loads, freezes and traces; small ones train."""

import importlib
import pathlib

import jax
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, from_config
from bigscale.train.build import build

NAMES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
  if path.stem != "__init__"
)


@pytest.mark.parametrize("name", NAMES)
def test_config_freezes_and_traces(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  spec = from_config(config)
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  state, scalars = jax.eval_shape(
    built.step, built.abstract_state, built.abstract_batch
  )
  assert jax.tree.structure(state) == jax.tree.structure(built.abstract_state)
  assert {"d/loss", "g/loss", "d/grad_norm", "g/grad_norm"} <= scalars.keys()


@pytest.mark.parametrize("name", NAMES)
def test_test_config_is_the_same_run_in_small(name):
  module = importlib.import_module(f"configs.{name}")
  small, full = (
    from_config(module.get_test_config()),
    from_config(module.get_config()),
  )
  assert type(small.model) is type(full.model)
  assert small.loss.adversarial == full.loss.adversarial
  assert small.optim == full.optim
  assert small.total_steps <= 8


def test_header_tells_the_command():
  for name in NAMES:
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert f"bigscale train --config=configs/{name}.py" in doc
