"""The initial state and the random numbers of a step."""

import jax
import jax.numpy as jnp

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec
from bigscale.train.build import build
from bigscale.types import Batch
from tests import fast_compile
from tests.parallel.tiny_gans import (
  BATCH,
  Case,
  first_state,
  spec_of,
  worst,
)

SPEC = spec_of(Case("r3gan_small", "float32"))


def one_device():
  return build(SPEC, make_mesh(MeshSpec(), jax.devices()[:1]))


def test_initial_state_does_not_depend_on_devices():
  built = build(SPEC, make_mesh(MeshSpec(), jax.devices()))
  init = built.init.lower().compile(fast_compile.OPTIONS)
  assert (
    worst(first_state("r3gan_small", "float32"), jax.device_get(init())) < 1e-6
  )


def test_noise_depends_on_attempt_step_and_seed():
  built = one_device()
  batch = Batch(
    jnp.zeros((2, BATCH, 4, 4, 3), jnp.uint8),
    jnp.zeros((2, BATCH), jnp.int32),
  )

  init = built.init.lower().compile(fast_compile.OPTIONS)
  one_step = built.step.lower(
    built.abstract_state, built.abstract_batch
  ).compile(fast_compile.OPTIONS)

  def loss(attempt: int, step: int) -> float:
    state = init()
    state = state._replace(
      attempt=state.attempt + attempt, step=state.step + step
    )
    return float(one_step(state, batch)[1]["g/loss"])

  base = loss(0, 0)
  assert loss(0, 0) == base
  assert loss(1, 0) != base
  assert loss(0, 1) != base
