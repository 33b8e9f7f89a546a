"""Augmentation probability of D's images: fixed, scheduled or adaptive.

Adaptive (Karras et al. 2020b, sec. 3): the mean sign of D's output on reals
(`losses.adversarial.Adversarial.sign`) measures how much D overfits. Every few
steps, the probability moves in the direction that brings the sign closer to its
target.
"""

from typing import NamedTuple

import jax.numpy as jnp

from bigscale.spec import RunSpec
from bigscale.train import optim
from bigscale.types import Array


class AugmentState(NamedTuple):
  """State of the adaptive probability; unused in the other modes.

  Attributes:
    probability: [] in [0, 1], probability of each transform.
    sign_sum: [] sum of `d/sign_real` over the D updates since the last
      adjustment.
  """

  probability: Array
  sign_sum: Array


def init(spec: RunSpec) -> AugmentState:
  """Returns the initial state."""
  first = jnp.asarray(spec.augment.probability.first, jnp.float32)
  return AugmentState(first, jnp.zeros((), jnp.float32))


def probability(spec: RunSpec, state: AugmentState, images: Array) -> Array:
  """Returns the probability [] of a step after `images` images."""
  if spec.augment.target is not None:
    return state.probability
  return optim.value(spec.augment.probability, images)


def observe(state: AugmentState, mean_sign: Array) -> AugmentState:
  """Adds an update's mean sign, `d/sign_real`, [] in [-1, 1]."""
  total = state.sign_sum + mean_sign.astype(jnp.float32)
  return state._replace(sign_sum=total)


def adjust(
  spec: RunSpec, state: AugmentState, steps_done: Array
) -> AugmentState:
  """Moves the probability by at most interval / target_kimg if it is due."""
  augment = spec.augment
  if augment.target is None:
    return state._replace(sign_sum=jnp.zeros_like(state.sign_sum))
  interval = augment.target_interval
  mean_sign = state.sign_sum / (interval * spec.optim.d_steps)
  stride = spec.images_per_step * interval / (1000 * augment.target_kimg)
  moved = jnp.clip(
    state.probability + stride * jnp.sign(mean_sign - augment.target), 0, 1
  )
  due = steps_done % interval == 0
  return AugmentState(
    jnp.where(due, moved, state.probability),
    jnp.where(due, 0, state.sign_sum),
  )
