"""Checks of tensors by their sketches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.monitor.anchors import measure
from bigscale.monitor.anchors.tensors import Sketch, TensorWatch

_DECAY = 0.998
_ROW = {"g/update_norm": 1e-2, "g/weight_norm": 1.0}


class _Run:
  """G random walks, and an average follows it."""

  def __init__(self) -> None:
    rng = np.random.default_rng(0)
    self.rng = rng
    self.g = {k: rng.standard_normal((50, 40)) for k in "abc"}
    self.d = {k: rng.standard_normal((50, 40)) for k in "ab"}
    self.average = {k: x + 0.1 for k, x in self.g.items()}
    self.watch = TensorWatch()
    self.decays: float | None = None

  def step(self, frozen: str = "", broken: str = "") -> None:
    for tree in (self.g, self.d):
      for name in tree:
        if not (tree is self.g and name in frozen):
          tree[name] = tree[name] + 1e-3 * self.rng.standard_normal((50, 40))
    for name in self.average:
      if name not in broken:
        old = self.average[name].astype(np.float32)
        new = self.g[name].astype(np.float32)
        keep = np.float32(_DECAY)
        self.average[name] = keep * old + (1 - keep) * new

  def sketches(self) -> dict[str, Sketch]:
    trees = {"g": self.g, "d": self.d, "average": self.average}
    wide = {
      name: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
      for name, tree in trees.items()
    }
    return {
      name: Sketch(*map(np.asarray, _sketch(tree)))
      for name, tree in wide.items()
    }

  def look(self, steps: int = 10, **faults: str) -> dict:
    for _ in range(steps - 1):
      self.step(**faults)
    before = self.sketches()
    self.step(**faults)
    since = None if self.decays is None else self.decays * _DECAY**steps
    self.decays = 1.0
    return self.watch.look(before, self.sketches(), _DECAY, since, _ROW)


_sketch = jax.jit(measure.sketch)


def test_a_healthy_run_has_no_wrong_tensors():
  run = _Run()
  for _ in range(6):
    found = run.look()
    assert all(one.wrong == 0 for one in found.values())
  assert found["average"].judged == 3


def test_an_average_that_is_not_updated_is_found_at_once():
  run = _Run()
  run.look()
  assert run.look(broken="b")["average"].wrong == 1
  assert run.look(broken="abc")["average"].wrong == 3


def test_a_tensor_that_stands_still_is_found_at_the_second_look():
  run = _Run()
  run.look()
  run.look()
  assert run.look(frozen="a")["g"].wrong == 0
  assert run.look(frozen="a")["g"].wrong == 1
  assert run.look()["g"].wrong == 0


def test_a_tensor_that_never_moved_is_not_judged():
  run = _Run()
  for _ in range(5):
    assert run.look(frozen="a")["g"].wrong == 0


def test_tensors_may_rest_when_the_optimizer_makes_no_updates():
  run = _Run()
  run.look()
  run.look()
  row = {"g/update_norm": 0.0, "g/weight_norm": 1.0}
  for _ in range(3):
    sketches = run.sketches()
    found = run.watch.look(sketches, sketches, 1.0, 1.0, row)
  assert found["g"].wrong == 0


def test_an_average_that_jumps_went_astray():
  run = _Run()
  run.look()
  run.look()
  run.average["c"] = run.average["c"] * 3
  assert run.look()["astray"].wrong == 1


def test_the_state_restores_the_past():
  run = _Run()
  run.look()
  run.look()
  run.look(frozen="b")
  state = json.loads(json.dumps(run.watch.get_state()))
  run.watch = TensorWatch()
  run.watch.set_state(state)
  assert run.look(frozen="b")["g"].wrong == 1


def test_sketches_are_linear_and_leave_out_small_tensors():
  rng = np.random.default_rng(1)
  x, y = (jnp.asarray(rng.standard_normal((7, 9)), jnp.float32) for _ in "xy")
  sums, norms = _sketch({"x": x, "bias": jnp.ones(3)})
  assert sums.shape == (1, measure.SUMS)
  np.testing.assert_allclose(norms, [jnp.linalg.norm(x)], rtol=1e-5)
  both = _sketch({"x": 0.5 * x + 2 * y})[0]
  apart = 0.5 * sums + 2 * _sketch({"x": y})[0]
  np.testing.assert_allclose(both, apart, atol=1e-4)
  assert len(np.unique(np.round(np.asarray(sums), 4))) == measure.SUMS


@pytest.mark.parametrize("place", [(0, 0), (6, 8), (3, 4)])
def test_every_entry_changes_the_sketch(place):
  x = jnp.ones((7, 9))
  before = _sketch({"x": x})[0]
  assert (before != _sketch({"x": x.at[place].add(0.5)})[0]).all()
