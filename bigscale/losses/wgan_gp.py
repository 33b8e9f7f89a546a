"""WGAN-GP's penalty: input gradients of length 1 between reals and fakes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bigscale.losses.adversarial import at_least_float32
from bigscale.losses.r1_r2 import logits_and_gradient_penalty
from bigscale.losses.terms import DTerm, Products
from bigscale.types import Array


def interpolation_penalty(
  discriminator: Callable[[Array], Array],
  reals_bhwc: Array,
  fakes_bhwc: Array,
  mix_b: Array,
) -> Array:
  """(|grad D| - 1)^2 between reals and fakes, per sample, before the weight.

  Gulrajani et al. 2017, eq. 3. Samples must not see each other in D. Where the
  gradient vanishes the penalty is 1 and its own gradient 0.

  Args:
    discriminator: images to logits [B].
    reals_bhwc: [B, H, W, C].
    fakes_bhwc: [B, H, W, C].
    mix_b: [B] in [0, 1], the share of the real in each mixture; uniform draws.

  Returns:
    [B].
  """
  mix = at_least_float32(mix_b)[:, None, None, None]
  reals, fakes = at_least_float32(reals_bhwc), at_least_float32(fakes_bhwc)
  _, squares = logits_and_gradient_penalty(
    discriminator, mix * reals + (1 - mix) * fakes
  )
  # The inner `where` keeps sqrt's slope at zero, infinite, out of the product.
  positive = squares > 0
  norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
  return jnp.square(norms - 1)


def _values(
  discriminator: Callable[[Array, Array], Array],
  reals: Any,
  fakes: Any,
  mix_b: Array,
) -> Array:
  """As `DTerm.values`; a mixture is taken under the real's label."""
  return interpolation_penalty(
    lambda images: discriminator(images, reals.labels),
    reals.images,
    fakes.images,
    mix_b,
  )


# Its gradient is that of a gradient alone, without the logits'. D is piecewise
# linear but for attention: what stands before the last one costs as in R1.
TERM = DTerm(
  values=_values,
  scalar="d/gradient_penalty",
  draws=(),
  cost=Products(linear=4, first=4, between=9, pointwise=4, fixed=3),
)
