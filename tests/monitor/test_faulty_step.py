"""The training step with knobs: neutral ones change nothing, others do."""

import jax
import numpy as np
import pytest

from bigscale.monitor.drills.disturbances import FaultyState, OldState, Scene
from bigscale.monitor.drills.faulty_step import NEUTRAL
from bigscale.monitor.drills.kinds import FAULTS
from bigscale.monitor.drills.stages import Stage
from bigscale.types import Batch

pytestmark = pytest.mark.slow
SEED = np.int32(3)
# A value of each knob that acts within two steps.
TURNED = {
  name: 0.5 if value in (0, -1) else 2.0 for name, value in NEUTRAL.items()
} | {"same_noise": 1.0}
# BigGAN at 8 px has no penalty.
NO_EFFECT = {"biggan_8": {"r1_gamma", "r2_gamma"}, "r3gan_8": set()}


@pytest.fixture(scope="module", params=["r3gan_8", "biggan_8"])
def stage(request):
  return Stage(request.param)


@pytest.fixture(scope="module")
def batch(stage):
  images, labels = stage.built().abstract_batch
  rng = np.random.default_rng(0)
  return Batch(
    jax.device_put(
      rng.integers(0, 256, images.shape, np.uint8), images.sharding
    ),
    jax.device_put(
      rng.integers(0, 10, labels.shape).astype(np.int32), labels.sharding
    ),
  )


def after(stage, batch, step, steps=2):
  state = stage.built().init(SEED)
  for _ in range(steps):
    state, _ = step(state, batch)
  state = state._replace(seed=state.seed)
  return [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def usual(stage, batch):
  return after(stage, batch, stage.built().step)


def test_neutral_knobs_change_nothing(stage, batch, usual):
  found = after(stage, batch, stage.tools.with_knobs({}))
  for x, y in zip(found, usual, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_turned_knob_changes_the_state(stage, batch, name):
  neutral = after(stage, batch, stage.tools.with_knobs({}))
  turned = after(stage, batch, stage.tools.with_knobs({name: TURNED[name]}))
  same = all(np.array_equal(x, y) for x, y in zip(neutral, turned, strict=True))
  assert same == (name in NO_EFFECT[stage.name])
  assert all(np.isfinite(x).all() for x in turned)


def test_an_unknown_knob_is_refused(stage):
  with pytest.raises(KeyError, match="lr_of_g"):
    stage.tools.with_knobs({"lr_of_g": 2.0})


def test_state_faults_keep_the_form_of_the_state(stage):
  state = stage.built().init(SEED)
  forms = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
  tried = 0
  for kind in FAULTS.values():
    if kind.models and stage.family not in kind.models:
      continue
    fault = kind.make(Scene(10, 1, False, stage.tools))
    if not isinstance(fault, (FaultyState, OldState)):
      continue
    tried += 1
    fault.state(10 - OldState.PERIOD, 0, state)
    found = fault.state(10, 0, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), found) == (
      forms
    )
  assert tried > 20
