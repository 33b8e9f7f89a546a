"""DiffAugment: color, translation and cutout (Zhao et al. 2020).

As in the authors' code, `color` is brightness, then saturation, then contrast.
`translation` moves the image by up to an eighth of each side and fills with
zeros. `cutout` sets a rectangle with half of each side to zero, whose center
may be anywhere in the image. Saturation does not change a gray image.

The paper always applies every transform. Here, each of the three is applied to
each image independently with the given probability.
"""

import jax.numpy as jnp

from bigscale.ops.augment import draws, moves
from bigscale.types import Array

_TRANSLATION = 8  # Ratio of the image's side to the maximum translation.
_CUTOUT = 2  # Ratio of the image's side to the cutout's side.
COUNT = 10  # Uniform numbers per image.


def augment(
  transforms: frozenset[str],
  u_bn: Array,
  images_bhwc: Array,
  probability: Array,
) -> Array:
  """Applies the selected transforms of color, translation and cutout.

  Args:
    transforms: names of the transforms to apply.
    u_bn: [B, COUNT] uniform in [0, 1).
    images_bhwc: [B, H, W, C] float in [-1, 1], C = 1 or 3.
    probability: [] in [0, 1], of each transform for each image.

  Raises:
    SpecError: the images have another shape.
  """
  x = draws.widen(images_bhwc)
  u = u_bn.T
  for name, gate, transform, own in (
    ("color", u[0], _color, u[1:4]),
    ("translation", u[4], _translate, u[5:7]),
    ("cutout", u[7], _cut_out, u[8:10]),
  ):
    if name in transforms:
      x = draws.choose(gate < probability, transform(own, x), x)
  return x.astype(images_bhwc.dtype)


def color(
  images_bhwc: Array, shift_b: Array, saturation_b: Array, contrast_b: Array
) -> Array:
  """Adds a shift, then scales about the pixel's mean and the image's mean.

  Args:
    images_bhwc: [B, H, W, C] float.
    shift_b: [B] value added to all channels.
    saturation_b: [B] factor of the differences from the pixel's mean.
    contrast_b: [B] factor of the differences from the image's mean.
  """
  shift, saturation, contrast = (
    v.astype(images_bhwc.dtype)[:, None, None, None]
    for v in (shift_b, saturation_b, contrast_b)
  )
  x = images_bhwc + shift
  mean = x.mean(axis=3, keepdims=True)
  x = (x - mean) * saturation + mean
  mean = x.mean(axis=(1, 2, 3), keepdims=True)
  return (x - mean) * contrast + mean


def translate(images_bhwc: Array, rows_b: Array, columns_b: Array) -> Array:
  """out[i, j] = image[i + rows, j + columns], zero outside; both [B] int."""
  height, width = images_bhwc.shape[1:3]
  return moves.take(
    images_bhwc,
    jnp.arange(height)[None] + rows_b[:, None],
    jnp.arange(width)[None] + columns_b[:, None],
  )


def cut_out(images_bhwc: Array, rows_b: Array, columns_b: Array) -> Array:
  """Zeroes half of each side around pixel (rows, columns); both [B] int."""
  row = _inside(images_bhwc.shape[1], rows_b)[:, :, None, None]
  column = _inside(images_bhwc.shape[2], columns_b)[:, None, :, None]
  return jnp.where(row & column, 0, images_bhwc)


def _inside(side: int, center_b: Array) -> Array:
  """Returns [B, side] bool, whether the rectangle covers a row or column."""
  size = side // _CUTOUT
  offset = jnp.arange(side)[None] - center_b[:, None] + size // 2
  return (offset >= 0) & (offset < size)


def _color(u_3b: Array, x: Array) -> Array:
  shift, saturation, contrast = u_3b
  return color(x, shift - 0.5, 2 * saturation, contrast + 0.5)


def _translate(u_2b: Array, x: Array) -> Array:
  shifts = []
  for u, side in zip(u_2b, x.shape[1:3], strict=True):
    farthest = side // _TRANSLATION
    shifts.append(draws.whole(u, 2 * farthest + 1) - farthest)
  return translate(x, *shifts)


def _cut_out(u_2b: Array, x: Array) -> Array:
  # The center of a rectangle with an even side lies between pixels, so there is
  # one more position.
  centers = [
    draws.whole(u, side + 1 - side // _CUTOUT % 2)
    for u, side in zip(u_2b, x.shape[1:3], strict=True)
  ]
  return cut_out(x, *centers)
