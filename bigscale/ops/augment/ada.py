"""The pipe of StyleGAN2-ADA with R3GAN's strengths.

In this order (Karras et al. 2020, app. B; multipliers and strengths as R3GAN
sets them): `blit`, pixels moved whole: x-flip, quarter turns, whole
translation; `geometric`: isotropic scaling, rotation, anisotropic scaling,
rotation, fractional translation; `color`: brightness, contrast, luma flip,
hue, saturation; `cutout`. Image-space filters and noise are off in R3GAN and
left out. An operation is applied to an image with its multiplier times the
probability given: 1 for blit, geometric and cutout, 1/2 for colours.

Where this differs from the authors' code:

- An image whose colours, or whose pixels' places, no draw has changed is
  returned as it was, bit for bit. Theirs passes through filters, or through
  the identity matrix, which give it back up to rounding.
- An image with blit operations alone is made by moving its pixels. Theirs
  pass through the resampling, whose filter is not quite symmetric: there a
  flip convolves the image with a kernel of about 0.96 at its centre and up
  to 0.1 beside it, which changes pixels of photos by up to 0.3 and of noise by
  up to 0.7 (docs/reference/parity.md). Combined with geometric operations,
  blits are part of one resampling, as theirs are.
- The reflected margin is always the widest that theirs can be
  (`bigscale.ops.augment.warp`).
"""

import jax.numpy as jnp

from bigscale.ops.augment import colors, draws, geometry, moves
from bigscale.ops.augment.warp import warp
from bigscale.spec import require
from bigscale.types import Array

_CUTOUT_SIZE = 0.5  # Of each side.
# Uniform numbers of an image: blit, geometric, color, cutout.
COUNT = 7 + 11 + 10 + 3
_SPLITS = (7, 18, 28)


def augment(
  transforms: frozenset[str],
  u_bn: Array,
  images_bhwc: Array,
  probability: Array,
) -> Array:
  """Applies those of blit, geometric, color, cutout that are named.

  Args:
    transforms: names.
    u_bn: [B, COUNT] uniform in [0, 1).
    images_bhwc: [B, N, N, C] float in [-1, 1], C = 1 or 3.
    probability: [] of each operation, before its multiplier, in [0, 1].

  Raises:
    SpecError: the images have another shape.
  """
  x = draws.widen(images_bhwc)
  batch, height, width, channels = x.shape
  require(
    height == width,
    f"the ada pipe was given images of {height}x{width}; it turns them by "
    "quarters and takes squares",
  )
  u_blit, u_geometric, u_color, u_cutout = jnp.split(u_bn, _SPLITS, axis=1)
  moved, inverse = x, geometry.identity(batch)
  if "blit" in transforms:
    blit = geometry.draw_blit(u_blit, height, probability)
    inverse = blit.inverse_b33
    moved = draws.choose(blit.drawn_b, moves.blit(x, inverse), x)
  if "geometric" in transforms:
    affine = geometry.draw_geometric(u_geometric, height, probability)
    both = geometry.compose(inverse, affine.inverse_b33)
    moved = draws.choose(affine.drawn_b, warp(x, both), moved)
  x = moved
  if "color" in transforms:
    color = colors.draw(u_color, channels, probability)
    x = draws.choose(color.drawn_b, colors.apply(x, color.matrix_b44), x)
  if "cutout" in transforms:
    size = jnp.where(u_cutout[:, 0] < probability, _CUTOUT_SIZE, 0.0)
    x = cut_out(x, u_cutout[:, 1:], size)
  return x.astype(images_bhwc.dtype)


def cut_out(images_bhwc: Array, centres_b2: Array, size_b: Array) -> Array:
  """Zeroes pixels whose centre lies in a square.

  Args:
    images_bhwc: [B, H, W, C] float.
    centres_b2: [B, 2] x and y of the square's centre, over the sides.
    size_b: [B] its side over the image's; 0 for none.
  """
  covered = []
  for side, centre_b in zip(
    images_bhwc.shape[2:0:-1], centres_b2.T, strict=True
  ):
    at = (jnp.arange(side, dtype=centre_b.dtype) + 0.5) / side
    distance = jnp.abs(at[None] - centre_b[:, None])
    covered.append(distance < size_b[:, None] / 2)
  columns, rows = covered
  return jnp.where(
    rows[:, :, None, None] & columns[:, None, :, None], 0, images_bhwc
  )
