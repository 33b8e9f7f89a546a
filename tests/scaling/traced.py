"""Products of a run's traced step, counted equation by equation.

The step is traced in the plain forms (`gpu`: no grouped convolution made
dense, none beside a doubling or halving rewritten), or in those of a platform.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.models.make import make_model
from bigscale.scaling import jaxpr_flops
from bigscale.train.state import init_state
from bigscale.train.step import GanStep
from bigscale.types import Batch

PLAIN = "gpu"


def trace(spec, platform=PLAIN):
  """The run's step, traced on shapes for one device."""
  model = make_model(spec.model, platform)
  state = jax.eval_shape(lambda s: init_state(model, spec, s), np.int32(0))
  side, channels = spec.model.resolution, spec.model.image_channels
  leading = (spec.batches_per_step, spec.global_batch_size)
  batch = Batch(
    jax.ShapeDtypeStruct((*leading, side, side, channels), jnp.uint8),
    jax.ShapeDtypeStruct(leading, jnp.int32),
  )
  return jax.jit(GanStep(model, spec)).trace(state, batch)


def step_flops(spec, platform=PLAIN):
  """Of the step's products, taps on padding free."""
  return jaxpr_flops.count(trace(spec, platform).jaxpr).flops
