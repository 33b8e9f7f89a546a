"""Random affine maps of color space.

A map is a [B, 4, 4] homogeneous matrix from (r, g, b, 1) to (r, g, b, 1), with
values in [-1, 1]. The luma axis is (1, 1, 1) / sqrt(3).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.ops.augment import draws
from bigscale.types import Array

_MULTIPLIER = 0.5  # Factor of the probability of each operation.
_BRIGHTNESS_STD = 0.2
# Standard deviations of log2 of the factors.
_CONTRAST_STD = 0.5
_SATURATION_STD = 1.0

# Projection onto the luma axis, in homogeneous coordinates.
_LUMA = np.zeros((4, 4), np.float32)
_LUMA[:3, :3] = 1 / 3
_EYE = np.eye(4, dtype=np.float32)
# Cross product with the luma axis.
_CROSS = np.zeros((4, 4), np.float32)
_CROSS[:3, :3] = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
_SHIFT = np.zeros((4, 4), np.float32)
_SHIFT[:3, 3] = 1
_CORNER = np.diag(np.array([0, 0, 0, 1], np.float32))


class ColorMap(NamedTuple):
  """Random color maps of a batch.

  Attributes:
    matrix_b44: [B, 4, 4] float32.
    drawn_b: [B] bool; if False, the matrix is the identity.
  """

  matrix_b44: Array
  drawn_b: Array


def brightness(shift_b: Array) -> Array:
  """Adds [B] values to all channels."""
  return _EYE[None] + _SHIFT[None] * _wide(shift_b)


def contrast(factor_b: Array) -> Array:
  """Scales colors about mid-gray, which is 0, by [B] factors."""
  return _CORNER[None] + (_EYE - _CORNER)[None] * _wide(factor_b)


def luma_flip(flip_b: Array) -> Array:
  """Mirrors the luma of images with a [B] value of 1; 0 has no effect."""
  return _EYE[None] - 2 * _LUMA[None] * _wide(flip_b)


def hue(theta_b: Array) -> Array:
  """Rotates colors about the luma axis by [B] radians."""
  across = (_EYE - _LUMA - _CORNER)[None]
  return (
    (_LUMA + _CORNER)[None]
    + across * _wide(jnp.cos(theta_b))
    + _CROSS[None] * _wide(jnp.sin(theta_b))
  )


def saturation(factor_b: Array) -> Array:
  """Scales the distance from the luma axis by [B] factors."""
  kept = (_LUMA + _CORNER)[None]
  return kept + (_EYE[None] - kept) * _wide(factor_b)


def draw(u_b10: Array, channels: int, probability: Array | float) -> ColorMap:
  """Generates random brightness, contrast, luma flip, hue and saturation.

  They are applied in this order, each with half of `probability`. Hue and
  saturation do not apply to images with one channel.

  Args:
    u_b10: [B, 10] uniform in [0, 1).
    channels: number of image channels, 1 or 3.
    probability: [] in [0, 1].
  """
  u = u_b10.T
  gates = tuple(u[:5] < _MULTIPLIER * probability)
  shift, contrasting, saturating = draws.normal(u[5:8])
  factor = jnp.exp2(_CONTRAST_STD * contrasting)
  steps = [
    brightness(jnp.where(gates[0], _BRIGHTNESS_STD * shift, 0.0)),
    contrast(jnp.where(gates[1], factor, 1.0)),
    luma_flip(jnp.where(gates[2], draws.whole(u[8], 2), 0)),
  ]
  if channels == 1:
    gates = gates[:3]
  else:
    factor = jnp.exp2(_SATURATION_STD * saturating)
    steps.append(hue(jnp.where(gates[3], draws.angle(u[9]), 0.0)))
    steps.append(saturation(jnp.where(gates[4], factor, 1.0)))
  matrix = steps[0]
  for step in steps[1:]:
    matrix = jnp.matmul(step, matrix, precision=jax.lax.Precision.HIGHEST)
  return ColorMap(matrix, jnp.stack(gates).any(axis=0))


def apply(images_bhwc: Array, matrix_b44: Array) -> Array:
  """Maps the colors of images [B, H, W, C], C = 1 or 3.

  For a gray image, the mean of the matrix's three rows is applied. The result
  is the mean of the three channels that an RGB pixel of this gray would get.
  """
  matrix = matrix_b44[:, :3].astype(images_bhwc.dtype)
  if images_bhwc.shape[-1] == 1:
    row = matrix.mean(axis=1)
    gain, shift = row[:, :3].sum(axis=1), row[:, 3]
    return images_bhwc * _image(gain) + _image(shift)
  mapped = jnp.einsum(
    "bij,bhwj->bhwi",
    matrix[:, :, :3],
    images_bhwc,
    precision=jax.lax.Precision.HIGHEST,
  )
  return mapped + matrix[:, None, None, :, 3]


def _wide(values_b: Array) -> Array:
  return values_b[:, None, None]


def _image(values_b: Array) -> Array:
  return values_b[:, None, None, None]
