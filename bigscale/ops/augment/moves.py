"""Whole pixels moved to other places, each image by indices of its own.

Written as products with one-hot matrices: on an accelerator made of matrix
units they cost far less than a gather, their gradient is no scatter, and
copies are exact (each sum has one term).
"""

import jax
import jax.numpy as jnp

from bigscale.types import Array


def take(images_bhwc: Array, rows_bi: Array, columns_bj: Array) -> Array:
  """out[b, i, j] = images[b, rows[b, i], columns[b, j]], zero outside.

  Args:
    images_bhwc: [B, H, W, C] float.
    rows_bi: [B, I] int; outside [0, H) gives a row of zeros.
    columns_bj: [B, J] int; outside [0, W) gives a column of zeros.
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
  """Flips, quarter turns and whole translations, reflecting at the border.

  Args:
    images_bhwc: [B, N, N, C] float.
    inverse_b33: [B, 3, 3] homogeneous: output (x, y, 1) about the image's
      centre, in pixels, y downwards, to input. The linear part must be a
      signed permutation, the translation whole and less than N pixels.
  """
  side = images_bhwc.shape[1]
  centred = jnp.arange(side, dtype=inverse_b33.dtype) - (side - 1) / 2
  m = inverse_b33[:, :2, :, None]
  # Where x and y change places, rows of the output run along x of the input.
  swapped_b = jnp.abs(inverse_b33[:, 0, 0]) < 0.5
  swapped = swapped_b[:, None]
  rows = jnp.where(swapped, m[:, 0, 1], m[:, 1, 1]) * centred[None]
  rows += jnp.where(swapped, m[:, 0, 2], m[:, 1, 2])
  columns = jnp.where(swapped, m[:, 1, 0], m[:, 0, 0]) * centred[None]
  columns += jnp.where(swapped, m[:, 1, 2], m[:, 0, 2])
  source = jnp.where(
    swapped_b[:, None, None, None],
    jnp.swapaxes(images_bhwc, 1, 2),
    images_bhwc,
  )
  return take(source, _reflect(rows, side), _reflect(columns, side))


def _reflect(centred: Array, side: int) -> Array:
  """Coordinates about the centre to indices, mirrored at border pixels."""
  index = jnp.round(centred + (side - 1) / 2).astype(jnp.int32)
  return (side - 1) - jnp.abs((side - 1) - jnp.abs(index))
