"""WGAN-GP's penalty: input gradients of norm 1 between reals and fakes."""

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
  """Returns (|grad D| - 1)^2 between reals and fakes, per sample.

  Source: Gulrajani et al. 2017, eq. 3, without the weight. The samples must be
  independent in D. If the gradient vanishes, the penalty is 1 and its own
  gradient is 0.

  Args:
    discriminator: function from images to logits [B].
    reals_bhwc: [B, H, W, C].
    fakes_bhwc: [B, H, W, C].
    mix_b: [B] uniform in [0, 1], the weight of the real in each interpolation.

  Returns:
    Penalties [B].
  """
  mix = at_least_float32(mix_b)[:, None, None, None]
  reals, fakes = at_least_float32(reals_bhwc), at_least_float32(fakes_bhwc)
  _, squares = logits_and_gradient_penalty(
    discriminator, mix * reals + (1 - mix) * fakes
  )
  # The inner `where` prevents the infinite slope of sqrt at zero, which times
  # zero would be NaN.
  positive = squares > 0
  norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
  return jnp.square(norms - 1)


def _values(
  discriminator: Callable[[Array, Array], Array],
  reals: Any,
  fakes: Any,
  mix_b: Array,
) -> Array:
  """`DTerm.values`; an interpolation has the label of its real."""
  return interpolation_penalty(
    lambda images: discriminator(images, reals.labels),
    reals.images,
    fakes.images,
    mix_b,
  )


# The penalty differentiates only a gradient, not the logits. D is piecewise
# linear except for attention, so the layers before the last attention cost as
# much as in R1.
TERM = DTerm(
  values=_values,
  scalar="d/gradient_penalty",
  draws=(),
  cost=Products(linear=4, first=4, between=9, pointwise=4, fixed=3),
)
