"""What D says of reals and fakes, and the penalties on its input gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from bigscale.losses import regularizers
from bigscale.spec import LossSpec
from bigscale.types import Array


class Reals(NamedTuple):
  """One batch of reals: [B, H, W, C] float in [-1, 1] and [B] int32."""

  images: Array
  labels: Array


class Fakes(NamedTuple):
  """One batch from G: as `Reals`."""

  images: Array
  labels: Array


class Judgement(NamedTuple):
  """Logits and squared input gradients [B]; zeros where not computed."""

  real: Array
  fake: Array
  r1: Array
  r2: Array


# D as a function of images alone: `see(labels, use)`; `use` tells the passes
# of one update apart, so that each draws its own augmentation.
See = Callable[[Array, int], Callable[[Array], Array]]
BOTH, REAL, FAKE, MIXED = range(4)


def judge(
  see: See,
  reals: Reals,
  fakes: Fakes,
  loss: LossSpec,
  due: Array | None,
  branches: bool = True,
) -> Judgement:
  """Logits of both sides, and R1 and R2 where the loss asks for them.

  D takes both in one pass where they are treated alike. Reals and fakes
  alternate there, so that each device keeps its own samples.

  Args:
    see: D.
    reals: B of them.
    fakes: B of them.
    loss: which penalties there are.
    due: [] bool, whether they are due in this step; None means always.
    branches: whether D may run in one branch of a program.
  """
  use_r1, use_r2 = loss.r1_gamma.ever_positive, loss.r2_gamma.ever_positive
  if use_r1 != use_r2:
    real, r1 = _look(
      see(reals.labels, REAL), reals.images, use_r1, due, branches
    )
    fake, r2 = _look(
      see(fakes.labels, FAKE), fakes.images, use_r2, due, branches
    )
    return Judgement(real, fake, r1, r2)
  network = see(interleave(fakes.labels, reals.labels), BOTH)
  both = interleave(fakes.images, reals.images)
  logits, penalties = _look(network, both, use_r1, due, branches)
  fake, real = logits.reshape(-1, 2).T
  r2, r1 = penalties.reshape(-1, 2).T
  return Judgement(real, fake, r1, r2)


def _look(
  network: Callable[[Array], Array],
  images: Array,
  penalize: bool,
  due: Array | None,
  branches: bool,
) -> tuple[Array, Array]:
  """Logits [B] and squared gradients [B]."""

  def without(x: Array) -> tuple[Array, Array]:
    logits = network(x)
    return logits, jnp.zeros_like(logits)

  def penalized(x: Array) -> tuple[Array, Array]:
    return regularizers.logits_and_gradient_penalty(network, x)

  if not penalize:
    return without(images)
  if due is None:
    return penalized(images)
  if not branches:
    logits, penalties = penalized(images)
    return logits, jnp.where(due, penalties, 0)
  return lax.cond(due, penalized, without, images)


def interleave(a: Array, b: Array) -> Array:
  """[B, ...] twice to [2B, ...]: a0 b0 a1 b1 ..."""
  stacked = jnp.stack([a, b], axis=1)
  return stacked.reshape(2 * a.shape[0], *a.shape[1:])
