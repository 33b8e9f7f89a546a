"""What is drawn for an image, and how images without a draw are kept.

All of a pipe's randomness is one array of uniform numbers, [B, count], with a
column for every quantity, used or not. So an image's draws do not depend on
which transforms are in use, nor on where the image lies; and one call of the
generator compiles and runs faster than many.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.spec import require
from bigscale.types import Array


def uniform(key: Array, batch: int, count: int) -> Array:
  """[batch, count] float32 in [0, 1), whether or not 64 bits are enabled."""
  return jax.random.uniform(key, (batch, count), jnp.float32)


def normal(uniform: Array) -> Array:
  """Standard normal of uniform in [0, 1): the inverse distribution."""
  lowest = np.nextafter(np.float32(-1), np.float32(0))  # -1 is minus infinity.
  return np.float32(np.sqrt(2)) * jax.lax.erf_inv(
    jnp.maximum(2 * uniform - 1, lowest)
  )


def angle(uniform: Array) -> Array:
  """Radians in [-pi, pi) of uniform in [0, 1)."""
  return (2 * uniform - 1) * np.float32(np.pi)


def whole(uniform: Array, count: int) -> Array:
  """Int32 in [0, count), evenly, of uniform in [0, 1)."""
  return jnp.floor(count * uniform).astype(jnp.int32)


def choose(drawn_b: Array, new_bhwc: Array, old_bhwc: Array) -> Array:
  """The new image where it was drawn, and the old one bit for bit elsewhere."""
  return jnp.where(drawn_b[:, None, None, None], new_bhwc, old_bhwc)


def widen(images_bhwc: Array) -> Array:
  """Checks the shape and raises the precision to float32 where it is less.

  Raises:
    SpecError: no [B, H, W, C] with C = 1 or 3.
  """
  require(
    images_bhwc.ndim == 4 and images_bhwc.shape[-1] in (1, 3),
    f"augmentation was given images of shape {images_bhwc.shape}; it takes "
    "[B, H, W, C] with C = 1 (gray) or 3 (RGB)",
  )
  return images_bhwc.astype(jnp.promote_types(images_bhwc.dtype, jnp.float32))
