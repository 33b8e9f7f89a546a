"""Adam, schedules in images, and the decay of the moving average."""

import jax.numpy as jnp
import optax

from bigscale.spec import OptimSpec, RunSpec, Schedule
from bigscale.types import Array


def images_seen(spec: RunSpec, step: Array) -> Array:
  """Returns the real images shown to D before a step of a uniform run.

  Every step of a uniform run shows as many. The dtype is the widest float.

  An int32 would end at 2.1 billion images.
  """
  return step.astype(jnp.result_type(float)) * spec.images_per_step


def value(schedule: Schedule, images: Array) -> Array:
  """The schedule after that many images: a cosine, then its last value."""
  if schedule.kimg == 0 or schedule.first == schedule.last:
    return jnp.asarray(schedule.last, images.dtype)
  share = jnp.clip(images / (1000 * schedule.kimg), 0, 1)
  fall = (1 + jnp.cos(jnp.pi * share)) / 2
  return schedule.last + (schedule.first - schedule.last) * fall


def adam(
  spec: OptimSpec, learning_rate: float | Array, beta2: float | Array
) -> optax.GradientTransformation:
  """Adam at this moment's learning rate and beta2, which may be traced.

  The state does not depend on either, so that the transformation is made anew
  in every step. The bias correction uses the current beta2, as in PyTorch.
  """
  return optax.chain(
    optax.scale_by_adam(b1=spec.beta1, b2=beta2, eps=spec.epsilon),
    optax.scale_by_learning_rate(learning_rate),
  )


def ema_decay(spec: RunSpec, images: Array) -> Array:
  """Share of the old average that this step keeps, in [0, 1)."""
  optim = spec.optim
  if optim.ema_half_life_kimg is None:
    decay = jnp.asarray(optim.ema_decay, images.dtype)
  else:
    half_life = 1000 * value(optim.ema_half_life_kimg, images)
    decay = 0.5 ** (spec.images_per_step / jnp.maximum(half_life, 1e-8))
  return jnp.where(images < 1000 * optim.ema_start_kimg, 0, decay)
