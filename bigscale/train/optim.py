"""Adam, schedules over images, and the decay of the moving average."""

import jax.numpy as jnp
import optax

from bigscale.spec import OptimSpec, RunSpec, Schedule
from bigscale.types import Array


def images_seen(spec: RunSpec, step: Array) -> Array:
  """Returns the number of real images before a step of a uniform run.

  All steps of a uniform run have the same number of images. The result has the
  widest float dtype, because an int32 would overflow at 2.1 billion images.
  """
  return step.astype(jnp.result_type(float)) * spec.images_per_step


def value(schedule: Schedule, images: Array) -> Array:
  """Returns a schedule's value after `images` images.

  The schedule is a cosine followed by its last value.
  """
  if schedule.kimg == 0 or schedule.first == schedule.last:
    return jnp.asarray(schedule.last, images.dtype)
  progress = jnp.clip(images / (1000 * schedule.kimg), 0, 1)
  decay = (1 + jnp.cos(jnp.pi * progress)) / 2
  return schedule.last + (schedule.first - schedule.last) * decay


def adam(
  spec: OptimSpec, learning_rate: float | Array, beta2: float | Array
) -> optax.GradientTransformation:
  """Returns Adam with the current learning rate and beta2, which may be traced.

  The optimizer state depends on neither, so each step creates a new
  transformation. Bias correction uses the current beta2, as in PyTorch.
  """
  return optax.chain(
    optax.scale_by_adam(b1=spec.beta1, b2=beta2, eps=spec.epsilon),
    optax.scale_by_learning_rate(learning_rate),
  )


def ema_decay(spec: RunSpec, images: Array) -> Array:
  """Returns the weight of the old average in this step, in [0, 1)."""
  optim = spec.optim
  if optim.ema_half_life_kimg is None:
    decay = jnp.asarray(optim.ema_decay, images.dtype)
  else:
    half_life = 1000 * value(optim.ema_half_life_kimg, images)
    decay = 0.5 ** (spec.images_per_step / jnp.maximum(half_life, 1e-8))
  return jnp.where(images < 1000 * optim.ema_start_kimg, 0, decay)
