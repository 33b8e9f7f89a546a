"""Converts between uint8 images and float images in [-1, 1]."""

import jax.numpy as jnp

from bigscale.types import Array


def to_float(images: Array, dtype: jnp.dtype = jnp.float32) -> Array:
  """Maps uint8 [0, 255] to `dtype` [-1, 1]."""
  return images.astype(dtype) / 127.5 - 1


def to_uint8(images: Array) -> Array:
  """Maps floats in [-1, 1] to uint8 [0, 255], clipping values outside."""
  return jnp.clip(jnp.round(images * 127.5 + 127.5), 0, 255).astype(jnp.uint8)
