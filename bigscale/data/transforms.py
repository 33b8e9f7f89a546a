"""Converts images of a source to the size and channels of a model, in numpy.

All functions are deterministic and treat each uint8 image independently.
"""

import numpy as np

from bigscale.data.manifest import DataError


def fit(
  image_hwc: np.ndarray, resolution: int, channels: int, padding: int = 0
) -> np.ndarray:
  """Converts an image to a square of a given size and number of channels.

  The image is cropped to the centered square. If the square does not have the
  requested size, it gets a black frame of `padding` pixels and is resized
  (`resize`).

  Args:
    image_hwc: [H, W, C] uint8, C = 1 or 3.
    resolution: side of the result in pixels.
    channels: 1 (RGB becomes ITU-R 601 luma) or 3 (gray is repeated).
    padding: black pixels added on each side. Digits and clothes of 28 px are
      usually padded, not resized, to 32 px.

  Returns:
    [resolution, resolution, channels] uint8; the input itself if nothing
    changes.

  Raises:
    DataError: the channels cannot be converted.
  """
  found = image_hwc.shape[-1]
  check_channels(found, channels)
  if found == 3 and channels == 1:
    image_hwc = luma(image_hwc)
  image_hwc = _square(image_hwc)
  if image_hwc.shape[0] != resolution:
    image_hwc = resize(pad(image_hwc, padding), resolution)
  if found == 1 and channels == 3:
    image_hwc = np.repeat(image_hwc, 3, axis=-1)
  return image_hwc


def fit_into(
  image_hwc: np.ndarray,
  out_hwc: np.ndarray,
  padding: int = 0,
  mirrored: bool = False,
) -> None:
  """Applies `fit` with the size and channels of `out_hwc`, and writes to it.

  Args:
    image_hwc: [H, W, C] uint8, C = 1 or 3.
    out_hwc: [R, R, C] uint8, overwritten.
    padding: see `fit`.
    mirrored: whether to flip the image left to right.
  """
  side, channels = out_hwc.shape[0], out_hwc.shape[-1]
  if image_hwc.shape != out_hwc.shape:
    image_hwc = fit(image_hwc, side, channels, padding)
  if not mirrored:
    out_hwc[...] = image_hwc
    return
  # One channel at a time: numpy flips rows of 3-byte pixels half as fast.
  for channel in range(channels):
    out_hwc[..., channel] = image_hwc[:, ::-1, channel]


def check_channels(found: int, wanted: int) -> None:
  """Raises `DataError` unless `fit` can convert the channels."""
  if found not in (1, 3) or wanted not in (1, 3):
    raise DataError(
      f"cannot convert images of {found} channels for a model of {wanted}: "
      "both must be 1 or 3; convert the images, or set model.image_channels"
    )


def luma(image_hwc: np.ndarray) -> np.ndarray:
  """Converts RGB [H, W, 3] uint8 to ITU-R 601 luma [H, W, 1]."""
  # 0.299, 0.587, 0.114 in 16-bit fixed point, which is equal on all machines.
  weights = np.array([19595, 38470, 7471], np.uint32)
  luma = (image_hwc.astype(np.uint32) * weights).sum(-1, dtype=np.uint32)
  return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _square(image_hwc: np.ndarray) -> np.ndarray:
  height, width, _ = image_hwc.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return image_hwc[top : top + side, left : left + side]


def pad(image_hwc: np.ndarray, padding: int) -> np.ndarray:
  """Adds a black frame of `padding` pixels to an image [H, W, C] uint8."""
  if not padding:
    return image_hwc
  height, width, channels = image_hwc.shape
  # Several times faster than `numpy.pad`.
  framed = np.zeros(
    (height + 2 * padding, width + 2 * padding, channels), np.uint8
  )
  framed[padding:-padding, padding:-padding] = image_hwc
  return framed


def resize(image_hwc: np.ndarray, resolution: int) -> np.ndarray:
  """Resizes a square image [S, S, C] uint8 to [resolution, resolution, C].

  Images are reduced by block means for integer factors, and by area averages
  for other factors. Images are enlarged with a Lanczos filter.
  """
  side = image_hwc.shape[0]
  if side == resolution:
    return image_hwc
  if side % resolution == 0:
    return _block_mean(image_hwc, side // resolution)
  return _resample(image_hwc, resolution)


def _block_mean(image_hwc: np.ndarray, factor: int) -> np.ndarray:
  height, width, channels = image_hwc.shape
  blocks = image_hwc.reshape(
    height // factor, factor, width // factor, factor, channels
  )
  total = blocks.sum(axis=(1, 3), dtype=np.uint32)
  area = factor * factor
  return ((total + area // 2) // area).astype(np.uint8)


def _resample(image_hwc: np.ndarray, resolution: int) -> np.ndarray:
  from PIL import Image

  shrinks = image_hwc.shape[0] > resolution
  kernel = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
  out = np.empty((resolution, resolution, image_hwc.shape[-1]), np.uint8)
  for channel in range(out.shape[-1]):
    plane = Image.fromarray(np.ascontiguousarray(image_hwc[..., channel]))
    out[..., channel] = plane.resize((resolution, resolution), kernel)
  return out
