"""D's forward pass on reals and fakes, which also computes R1 and R2."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from bigscale.losses.r1_r2 import logits_and_gradient_penalty
from bigscale.spec import LossSpec
from bigscale.types import Array


class Reals(NamedTuple):
  """A batch of reals: images [B, H, W, C] in [-1, 1] and labels [B] int32."""

  images: Array
  labels: Array


class Fakes(NamedTuple):
  """A batch of G's samples: shapes as in `Reals`."""

  images: Array
  labels: Array


class DOutputs(NamedTuple):
  """Logits and squared input gradients [B]; zeros if not computed."""

  real: Array
  fake: Array
  r1: Array
  r2: Array


# `discriminator_for(labels, use)` returns D as a function of images only. `use`
# is the index of a forward pass within an update, and each index has its own
# augmentation. The terms of `LossSpec.d_terms` use FIRST_TERM and above.
DiscriminatorFor = Callable[[Array, int], Callable[[Array], Array]]
BOTH, REAL, FAKE, FIRST_TERM = range(4)


def logits_and_penalties(
  discriminator_for: DiscriminatorFor,
  reals: Reals,
  fakes: Fakes,
  loss: LossSpec,
  due: Array | None,
  branches: bool = True,
) -> DOutputs:
  """Returns the logits of reals and fakes, and R1 and R2 if the loss uses them.

  Unless only one of the penalties is used, D processes reals and fakes in one
  pass. They are interleaved, so each device keeps its own samples.

  Args:
    discriminator_for: D, see `DiscriminatorFor`.
    reals: B real images.
    fakes: B generated images.
    loss: loss with the penalties.
    due: [] bool, whether the penalties are due in this step; None means always.
    branches: whether D may run inside a branch of `lax.cond`.
  """
  use_r1, use_r2 = loss.r1_gamma.ever_positive, loss.r2_gamma.ever_positive
  if use_r1 != use_r2:
    real, r1 = _logits_and_penalty(
      discriminator_for(reals.labels, REAL),
      reals.images,
      use_r1,
      due,
      branches,
    )
    fake, r2 = _logits_and_penalty(
      discriminator_for(fakes.labels, FAKE),
      fakes.images,
      use_r2,
      due,
      branches,
    )
    return DOutputs(real, fake, r1, r2)
  network = discriminator_for(interleave(fakes.labels, reals.labels), BOTH)
  both = interleave(fakes.images, reals.images)
  logits, penalties = _logits_and_penalty(network, both, use_r1, due, branches)
  fake, real = logits.reshape(-1, 2).T
  r2, r1 = penalties.reshape(-1, 2).T
  return DOutputs(real, fake, r1, r2)


def _logits_and_penalty(
  network: Callable[[Array], Array],
  images: Array,
  penalize: bool,
  due: Array | None,
  branches: bool,
) -> tuple[Array, Array]:
  """Returns logits [B] and squared gradients [B]."""

  def without(x: Array) -> tuple[Array, Array]:
    logits = network(x)
    return logits, jnp.zeros_like(logits)

  def penalized(x: Array) -> tuple[Array, Array]:
    return logits_and_gradient_penalty(network, x)

  if not penalize:
    return without(images)
  if due is None:
    return penalized(images)
  if not branches:
    logits, penalties = penalized(images)
    return logits, jnp.where(due, penalties, 0)
  return lax.cond(due, penalized, without, images)


def interleave(a: Array, b: Array) -> Array:
  """Interleaves two arrays [B, ...] to [2B, ...]: a0 b0 a1 b1 ..."""
  stacked = jnp.stack([a, b], axis=1)
  return stacked.reshape(2 * a.shape[0], *a.shape[1:])
