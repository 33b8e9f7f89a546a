"""R1 and R2: squared input gradients of D, computed with its logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigscale.losses.adversarial import at_least_float32
from bigscale.losses.terms import Products
from bigscale.types import Array

# Products per sample that has a penalty, including logits and their gradients:
# the forward pass, the input gradient, and the backward pass of both.
PENALIZED = Products(linear=6, first=5, between=9, pointwise=4, fixed=4)


def logits_and_gradient_penalty(
  discriminator: Callable[[Array], Array], images_bhwc: Array
) -> tuple[Array, Array]:
  """Returns D's logits and the squared norm of its input gradient.

  Both come from one forward pass. On reals the penalty is R1, on fakes R2: a
  sum over H, W and C, per sample, without the factor gamma / 2 (Mescheder et
  al. 2018, eq. 9; Huang et al. 2024, eq. 3). The samples must be independent in
  D.

  Args:
    discriminator: function from images to logits, including augmentation.
    images_bhwc: [B, H, W, C], at least float32, so that the gradient is too.

  Returns:
    Logits [B] and penalties [B].
  """
  logits, pullback = jax.vjp(discriminator, images_bhwc)
  (gradient_bhwc,) = pullback(jnp.ones_like(logits))
  squares = jnp.square(at_least_float32(gradient_bhwc))
  return logits, jnp.sum(squares, axis=(1, 2, 3))
