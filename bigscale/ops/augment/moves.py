"""Moves whole pixels, with separate indices for each image.

The functions use products with one-hot matrices. On matrix units these are much
cheaper than a gather, and their gradient is not a scatter. The copies are
exact, because each sum has one nonzero term.
"""

import jax
import jax.numpy as jnp

from bigscale.types import Array


def take(images_bhwc: Array, rows_bi: Array, columns_bj: Array) -> Array:
  """out[b, i, j] = images[b, rows[b, i], columns[b, j]], zero outside.

  Args:
    images_bhwc: [B, H, W, C] float.
    rows_bi: [B, I] int; an index outside [0, H) selects zeros.
    columns_bj: [B, J] int; an index outside [0, W) selects zeros.
  """
  height, width = images_bhwc.shape[1:3]
  dtype = images_bhwc.dtype
  return jnp.einsum(
    "bih,bhwc,bjw->bijc",
    jax.nn.one_hot(rows_bi, height, dtype=dtype),
    images_bhwc,
    jax.nn.one_hot(columns_bj, width, dtype=dtype),
    precision=jax.lax.Precision.HIGHEST,
  )


def blit(images_bhwc: Array, inverse_b33: Array) -> Array:
  """Applies flips, quarter turns and whole translations, with reflection.

  Args:
    images_bhwc: [B, N, N, C] float.
    inverse_b33: [B, 3, 3] homogeneous matrices from output to input (x, y, 1),
      in pixels relative to the image's center, y downwards. The linear part
      must be a signed permutation. The translation must be an integer and less
      than N pixels.
  """
  side = images_bhwc.shape[1]
  centered = jnp.arange(side, dtype=inverse_b33.dtype) - (side - 1) / 2
  m = inverse_b33[:, :2, :, None]
  # If x and y are swapped, rows of the output run along x of the input.
  swapped_b = jnp.abs(inverse_b33[:, 0, 0]) < 0.5
  swapped = swapped_b[:, None]
  rows = jnp.where(swapped, m[:, 0, 1], m[:, 1, 1]) * centered[None]
  rows += jnp.where(swapped, m[:, 0, 2], m[:, 1, 2])
  columns = jnp.where(swapped, m[:, 1, 0], m[:, 0, 0]) * centered[None]
  columns += jnp.where(swapped, m[:, 1, 2], m[:, 0, 2])
  source = jnp.where(
    swapped_b[:, None, None, None],
    jnp.swapaxes(images_bhwc, 1, 2),
    images_bhwc,
  )
  return take(source, _reflect(rows, side), _reflect(columns, side))


def _reflect(centered: Array, side: int) -> Array:
  """Maps centered coordinates to indices, reflected at the border pixels."""
  index = jnp.round(centered + (side - 1) / 2).astype(jnp.int32)
  return (side - 1) - jnp.abs((side - 1) - jnp.abs(index))
