"""Random numbers of the augmentation pipelines.

All randomness of a pipeline is one array of uniform numbers, [B, count], with a
column for every quantity, whether it is used or not. Therefore an image's
random numbers depend neither on the selected transforms nor on the image's
device. A single call of the generator also compiles and runs faster than many
calls.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.spec import require
from bigscale.types import Array


def uniform(key: Array, batch: int, count: int) -> Array:
  """Returns [batch, count] float32 in [0, 1), even if 64 bits are enabled."""
  return jax.random.uniform(key, (batch, count), jnp.float32)


def normal(uniform: Array) -> Array:
  """Maps uniform numbers in [0, 1) to standard normal ones."""
  # erf_inv(-1) is minus infinity.
  lowest = np.nextafter(np.float32(-1), np.float32(0))
  return np.float32(np.sqrt(2)) * jax.lax.erf_inv(
    jnp.maximum(2 * uniform - 1, lowest)
  )


def angle(uniform: Array) -> Array:
  """Maps uniform numbers in [0, 1) to radians in [-pi, pi)."""
  return (2 * uniform - 1) * np.float32(np.pi)


def whole(uniform: Array, count: int) -> Array:
  """Maps uniform numbers in [0, 1) to uniform int32 in [0, count)."""
  return jnp.floor(count * uniform).astype(jnp.int32)


def choose(drawn_b: Array, new_bhwc: Array, old_bhwc: Array) -> Array:
  """Returns the new image where `drawn_b` is True, otherwise the old one."""
  return jnp.where(drawn_b[:, None, None, None], new_bhwc, old_bhwc)


def widen(images_bhwc: Array) -> Array:
  """Checks the shape of images and casts them to at least float32.

  Raises:
    SpecError: the shape is not [B, H, W, C] with C = 1 or 3.
  """
  require(
    images_bhwc.ndim == 4 and images_bhwc.shape[-1] in (1, 3),
    f"augmentation was given images of shape {images_bhwc.shape}; they must be "
    "[B, H, W, C] with C = 1 (gray) or 3 (RGB)",
  )
  return images_bhwc.astype(jnp.promote_types(images_bhwc.dtype, jnp.float32))
