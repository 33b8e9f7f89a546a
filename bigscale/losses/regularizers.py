"""Penalties on input gradients and on weights, at least float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.losses.adversarial import at_least_float32
from bigscale.ops.spectral import flatten, output_axis
from bigscale.types import Array, PyTree

_HIGHEST = lax.Precision.HIGHEST


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


def orthogonal(params: PyTree, select: Callable[[str], bool]) -> Array:
  """Sum over weights of ||W^T W o (1 - I)||_F^2, filters against filters.

  Brock et al. 2019, eq. 3, before the factor beta. With W as a matrix of
  `out` rows, the Gram matrix compares every pair of output filters. Where
  `out` is the larger side the same sum comes from the smaller Gram matrix:
  ||W W^T||_F = ||W^T W||_F, less the diagonal of the larger one. So no matrix
  is larger than min(in, out)^2: BigGAN-128's first layer would need 24,576^2.

  Args:
    params: nested dictionary of weights.
    select: names the weights covered, by path; vectors are skipped.
  """
  total = jnp.zeros(())
  for path, weight in flatten(params).items():
    if weight.ndim < 2 or not select(path):
      continue
    weight = jnp.moveaxis(at_least_float32(weight), output_axis(path), -1)
    w_io = weight.reshape(-1, weight.shape[-1])
    total = total + _off_diagonal_gram(w_io)
  return total


def _off_diagonal_gram(w_io: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 over pairs of columns."""
  rows, out = w_io.shape
  if out <= rows:
    gram_oo = jnp.einsum("io,ip->op", w_io, w_io, precision=_HIGHEST)
    return jnp.sum(jnp.square(gram_oo * (1 - jnp.eye(out, dtype=w_io.dtype))))
  gram_ii = jnp.einsum("io,jo->ij", w_io, w_io, precision=_HIGHEST)
  squared_norms_o = jnp.sum(jnp.square(w_io), axis=0)
  return jnp.sum(jnp.square(gram_ii)) - jnp.sum(jnp.square(squared_norms_o))
