"""R1 and R2: the squared input gradient of D, beside its logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigscale.losses.adversarial import at_least_float32
from bigscale.losses.terms import Products
from bigscale.types import Array

# Of a penalized side, its logits and their gradients included: forward, the
# input gradient, and the backward pass of both.
PENALIZED = Products(linear=6, first=5, between=9, pointwise=4, fixed=4)


def logits_and_gradient_penalty(
  discriminator: Callable[[Array], Array], images_bhwc: Array
) -> tuple[Array, Array]:
  """D and the squared norm of its input gradient, from one forward pass.

  On reals this is R1, on fakes R2: sum over H, W and C, per sample, without
  the factor gamma / 2 (Mescheder et al. 2018, eq. 9; Huang et al. 2024,
  eq. 3). Samples must not see each other in D.

  Args:
    discriminator: images to logits, with any augmentation inside.
    images_bhwc: [B, H, W, C] at least float32, so that the gradient is too.

  Returns:
    Logits [B] and penalties [B].
  """
  logits, pullback = jax.vjp(discriminator, images_bhwc)
  (gradient_bhwc,) = pullback(jnp.ones_like(logits))
  squares = jnp.square(at_least_float32(gradient_bhwc))
  return logits, jnp.sum(squares, axis=(1, 2, 3))
