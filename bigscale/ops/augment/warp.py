"""Affine resampling of images, as in StyleGAN2-ADA.

The function is equivalent to these steps. Extend the image by reflection
(without repeating the border pixel) with a margin of N - 1 pixels on each side.
Double its resolution with the orthogonal wavelet filter sym6. Sample it
bilinearly, with zeros beyond the margin, at the transformed positions of an
output with twice the resolution and a margin of 3 pixels. Halve that with the
same filter, mirrored, and crop it. Because the filter is orthogonal, the
identity and integer translations reproduce the pixels up to rounding.

Implementation: reflection, doubling and sampling are linear, and the kernel at
a position (x, y) is a product of one kernel in x and one in y, with 7 taps
each. So a sample is a row of weights [N] times the image times a column of
weights [N]: a matrix product of [positions, N] by [N, N * C], then a weighted
sum. The forward pass has no gather and the gradient no scatter, both of which
are slow on a TPU, and no [6N, 6N] image is stored. The cost, 2 C N^2 (2N +
12)^2 FLOPs per image (35 million at 32 px, 0.5 billion at 64 px, 7 billion at
128 px), grows with N^4. From 256 px (109 billion) on, a gather may be faster on
accelerators without large matrix units. Positions are processed in bands of
rows to limit memory.

The authors derive the margin from the batch: the distance that the corners of
its images reach, plus 6 pixels, at most N - 1. A compiled program has static
shapes, and here an image's result must not depend on its batch, so the margin
is always N - 1. Results differ only where the filters reach beyond the authors'
smaller margin. There the authors' code reads zeros and this module reads
reflected pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.types import Array

# Daubechies' least asymmetric wavelet with 6 vanishing moments: its low-pass
# decomposition filter, 12 taps, normalized to sum 1.
_SYM6 = np.array(
  [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
  ]
)
_FILTER = _SYM6 / _SYM6.sum()
_MARGIN = 3  # Margin of the output, in pixels: a quarter of the filter.
_TAPS = 7
# Maximum size of the largest intermediate result, per image.
_BAND_BYTES = 4 * 2**20


def warp(images_bhwc: Array, inverse_b33: Array) -> Array:
  """Resamples each image at transformed positions.

  Args:
    images_bhwc: [B, N, N, C] float32 or float64.
    inverse_b33: [B, 3, 3] homogeneous matrices from output to input (x, y, 1),
      in pixels relative to the image's center, y downwards.
  """
  batch, side, _, channels = images_bhwc.shape
  fine = 2 * (side + 2 * _MARGIN)
  rows = _band_rows(side, fine, channels, images_bhwc.dtype.itemsize)
  images_bycx = images_bhwc.swapaxes(2, 3)

  # The backward pass recomputes the weights, which would fill the memory.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def band(images_bycx: Array, inverse_b33: Array, rows_r: Array) -> Array:
    x, y = _places(inverse_b33, rows_r, side)
    weights = functools.partial(_weights, side=side, dtype=images_bycx.dtype)
    highest = jax.lax.Precision.HIGHEST
    mixed = jnp.einsum(
      "bny,bycx->bncx", weights(y), images_bycx, precision=highest
    )
    return jnp.einsum("bncx,bnx->bnc", mixed, weights(x), precision=highest)

  sampled = jax.lax.map(
    lambda rows_r: band(images_bycx, inverse_b33, rows_r),
    jnp.arange(fine).reshape(-1, rows),
  )
  sampled_bhwc = sampled.swapaxes(0, 1).reshape(batch, fine, fine, channels)
  halve = jnp.asarray(_halving(side), images_bhwc.dtype)
  return jnp.einsum(
    "ip,bpqc,jq->bijc",
    halve,
    sampled_bhwc,
    halve,
    precision=jax.lax.Precision.HIGHEST,
  )


def _band_rows(side: int, fine: int, channels: int, item_bytes: int) -> int:
  """Returns the most rows that divide the fine output and fit in a band."""
  row_bytes = fine * side * channels * item_bytes
  most = max(1, _BAND_BYTES // row_bytes)
  return max(r for r in range(1, fine + 1) if fine % r == 0 and r <= most)


def _places(
  inverse_b33: Array, rows_r: Array, side: int
) -> tuple[Array, Array]:
  """Returns x and y, [B, n], of a band's positions on the reflected grid."""
  fine = 2 * (side + 2 * _MARGIN)
  # A pixel's own position on the doubled grid is the even one.
  origin = side - 1 + 2 * _MARGIN
  x_out = jnp.tile(jnp.arange(fine) - origin, rows_r.size)[None] / 2
  y_out = jnp.repeat(rows_r - origin, fine)[None] / 2
  # Written out, because a matrix product would round to bfloat16 on a TPU.
  m = inverse_b33[..., None]
  x, y = (
    2 * (m[:, i, 0] * x_out + m[:, i, 1] * y_out + m[:, i, 2]) for i in range(2)
  )
  # Index 0 is the first reflected pixel, N - 1 pixels before the image.
  first = 3 * (side - 1)
  return x + first, y + first


def _weights(place_bn: Array, side: int, dtype: jnp.dtype) -> Array:
  """Returns the weight of each pixel of a row at each position, [B, n, side].

  Between fine points k and k + 1 the value is linear. It is zero beyond both
  ends of the reflected image. Fine points 2a and 2a + 1 are computed from its
  pixels a - 3 to a + 3.
  """
  pixels = 3 * side - 2
  place = jnp.clip(place_bn, -2, 2 * pixels + 1)
  left = jnp.floor(place)
  right_share = place - left
  left = left.astype(jnp.int32)
  share = (
    jnp.where((left >= 0) & (left < 2 * pixels), 1 - right_share, 0),
    jnp.where((left >= -1) & (left < 2 * pixels - 1), right_share, 0),
  )
  odd = left % 2 == 1
  first = left // 2 - _TAPS // 2
  columns = jnp.arange(side)
  total = jnp.zeros((*place.shape, side), dtype)
  for tap in range(_TAPS):
    weight = sum(
      share[end] * jnp.where(odd, _PHASES[1, end, tap], _PHASES[0, end, tap])
      for end in range(2)
    )
    index = first + tap - (side - 1)
    inside = (index > -side) & (index < 2 * side - 1)
    mirrored = (side - 1) - jnp.abs((side - 1) - jnp.abs(index))
    mirrored = jnp.where(inside, mirrored, -1)
    hit = mirrored[..., None] == columns[None, None]
    total += jnp.where(hit, weight.astype(dtype)[..., None], 0)
  return total


def _phases() -> np.ndarray:
  """Returns the weights of pixels a - 3 to a + 3, [parity, end, tap].

  A position lies between fine points 2a + parity and 2a + parity + 1, its two
  ends. Fine point k is the sum over pixels s of 2 filter[5 + k - 2s].
  """
  phases = np.zeros((2, 2, _TAPS))
  for parity in range(2):
    for end in range(2):
      for tap in range(_TAPS):
        at = 5 + parity + end - 2 * (tap - _TAPS // 2)
        if 0 <= at < _FILTER.size:
          phases[parity, end, tap] = 2 * _FILTER[at]
  return phases.astype(np.float32)


_PHASES = _phases()


def _halving(side: int) -> np.ndarray:
  """Returns [side, 2 side + 12], the mirrored filter at every other point."""
  halve = np.zeros((side, 2 * (side + 2 * _MARGIN)))
  for pixel in range(side):
    start = 2 * pixel + 1
    halve[pixel, start : start + _FILTER.size] = _FILTER
  return halve
