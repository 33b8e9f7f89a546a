"""The pipeline of StyleGAN2-ADA with R3GAN's strengths.

It consists of these operations, in this order (Karras et al. 2020, app. B;
multipliers and strengths as in R3GAN). `blit` moves whole pixels: x-flip,
quarter turns and integer translation. `geometric` consists of isotropic
scaling, rotation, anisotropic scaling, rotation and fractional translation.
`color` consists of brightness, contrast, luma flip, hue and saturation.
`cutout` is last. R3GAN disables image-space filters and noise, so they are
omitted. An operation is applied to an image with the given probability times
the operation's multiplier, which is 1 for blit, geometric and cutout, and 1/2
for color.

Differences from the authors' code:

- An image whose colors or geometry no operation changes is returned bit for
  bit. The authors pass it through filters or the identity matrix, which
  reproduce it only up to rounding.
- An image with only blit operations is computed by moving its pixels. The
  authors resample it with a filter that is not quite symmetric. There, a flip
  convolves the image with a kernel of about 0.96 at its center and up to 0.1
  next to it, which changes pixels of photos by up to 0.3 and of noise by up to
  0.7 (docs/reference/parity.md). If combined with geometric operations, blits
  are part of one resampling, as in the authors' code.
- The reflected margin always has the maximum width of the authors' margin
  (`bigscale.ops.augment.warp`).
"""

import jax.numpy as jnp

from bigscale.ops.augment import colors, draws, geometry, moves
from bigscale.ops.augment.warp import warp
from bigscale.spec import require
from bigscale.types import Array

_CUTOUT_SIZE = 0.5  # Fraction of each side.
# Uniform numbers per image, for blit, geometric, color and cutout.
COUNT = 7 + 11 + 10 + 3
_SPLITS = (7, 18, 28)


def augment(
  transforms: frozenset[str],
  u_bn: Array,
  images_bhwc: Array,
  probability: Array,
) -> Array:
  """Applies the selected transforms of blit, geometric, color and cutout.

  Args:
    transforms: names of the transforms to apply.
    u_bn: [B, COUNT] uniform in [0, 1).
    images_bhwc: [B, N, N, C] float in [-1, 1], C = 1 or 3.
    probability: [] in [0, 1], of each operation before its multiplier.

  Raises:
    SpecError: the images have another shape.
  """
  x = draws.widen(images_bhwc)
  batch, height, width, channels = x.shape
  require(
    height == width,
    f"the ada pipe was given images of {height}x{width}; they must be square, "
    "because it applies quarter turns",
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


def cut_out(images_bhwc: Array, centers_b2: Array, size_b: Array) -> Array:
  """Sets pixels to zero whose center lies in a square.

  Args:
    images_bhwc: [B, H, W, C] float.
    centers_b2: [B, 2] x and y of the square's center, as a fraction of the
      sides.
    size_b: [B] side of the square, as a fraction of the image's; 0 for none.
  """
  covered = []
  for side, center_b in zip(
    images_bhwc.shape[2:0:-1], centers_b2.T, strict=True
  ):
    at = (jnp.arange(side, dtype=center_b.dtype) + 0.5) / side
    distance = jnp.abs(at[None] - center_b[:, None])
    covered.append(distance < size_b[:, None] / 2)
  columns, rows = covered
  return jnp.where(
    rows[:, :, None, None] & columns[:, None, :, None], 0, images_bhwc
  )
