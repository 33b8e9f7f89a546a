"""Counts the products of a run's traced step.

The step is traced in its plain form (`gpu`: without grouped convolutions made
dense and without rewritten convolutions next to upsampling or downsampling), or
in the form of another platform.
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
  """Traces a run's step on shapes for one device."""
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
  """Returns the FLOP of the step's products, without taps on padding."""
  return jaxpr_flops.count(trace(spec, platform).jaxpr).flops
