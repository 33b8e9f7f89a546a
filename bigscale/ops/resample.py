"""Upsampling and downsampling of maps by a factor of 2.

`upsample2x` and `downsample2x` use the filter [1, 3, 3, 1] / 8, which is [1, 2,
1] convolved with the box [1, 1]. R3GAN uses it through StyleGAN's upfirdn2d
(Huang et al. 2024; Karras et al. 2020). The functions compute the filter's two
phases separately, so no zeros are inserted and multiplied. Values beyond the
border are zero.
"""

from collections.abc import Callable

import jax.numpy as jnp

from bigscale.types import Array


def pool2x(x_bhwc: Array, reduce: Callable[..., Array]) -> Array:
  """Reduces [B, H, W, C] to [B, H/2, W/2, C] by jnp.mean or jnp.max."""
  b, h, w, c = x_bhwc.shape
  return reduce(x_bhwc.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def upsample2x(x_bhwc: Array) -> Array:
  """Maps [B, H, W, C] to [B, 2H, 2W, C]; the filter sums to 4 to keep means."""
  return _double(_double(x_bhwc, 1), 2)


def downsample2x(x_bhwc: Array) -> Array:
  """Maps [B, H, W, C] to [B, H/2, W/2, C]. H and W must be even."""
  return _halve(_halve(x_bhwc, 1), 2)


def _neighbor(x: Array, axis: int, offset: int) -> Array:
  """Returns x[i + offset] along `axis`, zero beyond it; offset is 1 or -1."""
  size = x.shape[axis]
  zero = jnp.zeros_like(jnp.take(x, jnp.array([0]), axis=axis))
  if offset > 0:
    kept = jnp.split(x, [1], axis=axis)[1]
    return jnp.concatenate([kept, zero], axis=axis)
  kept = jnp.split(x, [size - 1], axis=axis)[0]
  return jnp.concatenate([zero, kept], axis=axis)


def _double(x: Array, axis: int) -> Array:
  before, after = _neighbor(x, axis, -1), _neighbor(x, axis, 1)
  even = (before + 3 * x) / 4
  odd = (3 * x + after) / 4
  shape = list(x.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def _halve(x: Array, axis: int) -> Array:
  shape = list(x.shape)
  shape[axis : axis + 1] = [shape[axis] // 2, 2]
  left, right = jnp.split(x.reshape(shape), 2, axis=axis + 1)
  left, right = left.squeeze(axis + 1), right.squeeze(axis + 1)
  before, after = _neighbor(right, axis, -1), _neighbor(left, axis, 1)
  return (before + 3 * left + 3 * right + after) / 8
