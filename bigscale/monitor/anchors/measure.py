"""Pure functions that measure images and weights, for use inside jit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigscale.types import Array, PyTree

# Number of cells along each side of the grid of local colors.
_GRID = 4
# Number of random sums per tensor in a sketch.
SUMS = 8
# The last bias of a discriminator has no gradient while a hinge is inactive.
_SMALLEST_TENSOR = 5


def pixel_columns(images_bhwc: Array) -> Array:
  """Returns local colors, contrasts and color covariances of images, [B, F].

  Args:
    images_bhwc: [B, H, W, C] uint8 images with sides that are multiples of 4.
  """
  x_bhwc = images_bhwc.astype(jnp.float32) / 127.5 - 1
  batch, height, width, channels = x_bhwc.shape
  gray = jnp.mean(x_bhwc, axis=-1, keepdims=True)
  across = jnp.abs(jnp.diff(gray, axis=2, append=gray[:, :, -1:]))
  down = jnp.abs(jnp.diff(gray, axis=1, append=gray[:, -1:]))
  maps_bhwm = jnp.concatenate([x_bhwc, across, down], axis=-1)
  cells = maps_bhwm.reshape(
    batch, _GRID, height // _GRID, _GRID, width // _GRID, channels + 2
  )
  cells = jnp.mean(cells, axis=(2, 4)).reshape(batch, -1)
  flat_bnc = x_bhwc.reshape(batch, -1, channels)
  flat_bnc -= jnp.mean(flat_bnc, axis=1, keepdims=True)
  covariance_bcc = jnp.einsum(
    "bnc,bnd->bcd", flat_bnc, flat_bnc, precision=lax.Precision.HIGHEST
  ) / (height * width)
  rows, columns = np.triu_indices(channels)
  return jnp.concatenate([cells, covariance_bcc[:, rows, columns]], axis=1)


def hashes(images: Array) -> Array:
  """Returns a hash of each image's pixels, [..., 2] uint32.

  Equal images have equal hashes on every device. Two different images collide
  with probability of about 2^-64.

  Args:
    images: [..., H, W, C] uint8.
  """
  place = _places(images.shape[-3:])
  pixels = images.astype(jnp.uint32) + 1

  def one(seed: int) -> Array:
    weights = _mixed(place + jnp.uint32(seed)) | 1
    weights = jnp.broadcast_to(weights, images.shape)
    # Mixed again, because a sum of products is linear in the pixels.
    return _mixed(jnp.sum(pixels * weights, axis=(-3, -2, -1)))

  return jnp.stack([one(0x2545F491), one(0x9E3779B9)], axis=-1)


def project(features_bf: Array, dimension: int) -> Array:
  """Projects features [B, F] to at most [B, dimension], by random directions.

  The directions are fixed.
  """
  features_bf = features_bf.astype(jnp.float32)
  length = features_bf.shape[1]
  if length <= dimension:
    return features_bf
  rng = np.random.default_rng(0)
  basis = rng.standard_normal((length, dimension)) / math.sqrt(length)
  return jnp.matmul(
    features_bf, basis.astype(np.float32), precision=lax.Precision.HIGHEST
  )


def sketch(tree: PyTree) -> tuple[Array, Array]:
  """Returns random signed sums of each tensor, and its norm.

  The sums are linear in the tensors, and change with any of their entries.
  Tensors of fewer than 5 entries are left out.

  Returns:
    [T, SUMS] sums and [T] norms, float32.
  """
  leaves = [x for x in jax.tree.leaves(tree) if x.size >= _SMALLEST_TENSOR]

  def sums(x: Array) -> Array:
    x = x.astype(jnp.float32)
    bits = _mixed(_places(x.shape))
    return jnp.stack(
      [jnp.sum(jnp.where(bits >> (8 + 3 * i) & 1, x, -x)) for i in range(SUMS)]
    )

  norms = [jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)))) for x in leaves]
  return jnp.stack([sums(x) for x in leaves]), jnp.stack(norms)


def _places(shape: tuple[int, ...]) -> Array:
  """Returns the flat index of each entry, uint32.

  Built from one iota per axis: a reshape would gather a sharded tensor.
  """
  found, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    iota = lax.broadcasted_iota(jnp.uint32, shape, axis)
    found = found + iota * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return found


def _mixed(x: Array) -> Array:
  """Mixes the bits of uint32 numbers (Ettinger 2018, lowbias32)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
