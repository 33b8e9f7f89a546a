"""Resizes images to the input size of Inception-v3.

- `tf1`: bilinear as in TensorFlow 1, without antialiasing and misaligned by up
  to half a pixel. It is part of the compiled program. Most published FIDs use
  it.
- `clean`: Pillow's antialiased bicubic in float, channel by channel, on the
  host (Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in
  GAN Evaluation", and their code, clean-fid).
"""

import concurrent.futures
from typing import Literal

import jax.numpy as jnp
import numpy as np

from bigscale.types import Array

SIDE = 299
# Description of each mode in a score's protocol.
RULES = {
  "tf1": "TensorFlow 1 bilinear, not antialiased, align_corners=False",
  "clean": "clean-FID: Pillow bicubic, antialiased, float in [0, 255]",
}

Resize = Literal["tf1", "clean"]


def resize_tf1(x_bhwc: Array, side: int = SIDE) -> Array:
  """Resizes as TensorFlow 1's bilinear with `align_corners=False`.

  Args:
    x_bhwc: [B, H, W, C] float32.
    side: height and width of the result, pixels.

  Returns:
    [B, side, side, C] float32. Position i samples the input at i * H / side,
    which aligns the first pixels instead of the image edges.
  """
  for axis in (1, 2):
    size = x_bhwc.shape[axis]
    where = np.arange(side, dtype=np.float32) * np.float32(size / side)
    lower = where.astype(np.int32)
    shape = [1] * 4
    shape[axis] = side
    share = (where - lower).reshape(shape)
    low = jnp.take(x_bhwc, lower, axis)
    high = jnp.take(x_bhwc, np.minimum(lower + 1, size - 1), axis)
    x_bhwc = low + (high - low) * share
  return x_bhwc


def resize_clean(images: np.ndarray, side: int = SIDE) -> np.ndarray:
  """Resizes as clean-FID does, on the host.

  Args:
    images: [N, H, W, C] uint8.
    side: height and width of the result, pixels.

  Returns:
    [N, side, side, C] float32 in [0, 255], not rounded.
  """
  from PIL import Image

  def one(image: np.ndarray) -> np.ndarray:
    channels = [
      Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
      )
      for c in range(image.shape[-1])
    ]
    # Bicubic interpolation overshoots near edges.
    return np.clip(np.stack(channels, axis=-1), 0, 255)

  out = np.empty((len(images), side, side, images.shape[-1]), np.float32)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for i, image in enumerate(pool.map(one, images)):
      out[i] = image
  return out
