"""From the images of a source to the images a model takes. Pure numpy, uint8.

All of it is deterministic, and each image's result depends on that image alone.
"""

import numpy as np

from bigscale.data.manifest import DataError

# Digits and clothes of 28 px are customarily framed, not stretched, to 32 px.
_FRAMED = {28: 32}


def fit(images_bhwc: np.ndarray, resolution: int, channels: int) -> np.ndarray:
  """Makes images square, of one size and of so many channels.

  Oblong images lose what lies outside the centred square. 28 px images get a
  black frame to 32 px. Whole factors shrink by the mean of each block, other
  ones by area; smaller images grow by Lanczos.

  Args:
    images_bhwc: [N, H, W, C] uint8, C = 1 or 3.
    resolution: side of the result, pixels.
    channels: 1 (RGB becomes ITU-R 601 luma) or 3 (gray is repeated).

  Returns:
    [N, resolution, resolution, channels] uint8; the input itself where nothing
    is to be done.

  Raises:
    DataError: channels that cannot be converted.
  """
  found = images_bhwc.shape[-1]
  check_channels(found, channels)
  if found == 3 and channels == 1:
    images_bhwc = _luma(images_bhwc)
  images_bhwc = _resize(_square(images_bhwc), resolution)
  if found == 1 and channels == 3:
    images_bhwc = np.repeat(images_bhwc, 3, axis=-1)
  return images_bhwc


def check_channels(found: int, wanted: int) -> None:
  """Raises `DataError` unless `fit` can make `wanted` channels of `found`."""
  if found not in (1, 3) or wanted not in (1, 3):
    raise DataError(
      f"images of {found} channels cannot feed a model of {wanted}: both must "
      "be 1 or 3; convert the images, or set model.image_channels"
    )


def flip(images_bhwc: np.ndarray, mask_b: np.ndarray) -> np.ndarray:
  """Mirrors left and right the images that `mask_b` [N] bool marks."""
  return np.where(
    mask_b[:, None, None, None], images_bhwc[:, :, ::-1], images_bhwc
  )


def _luma(images_bhwc: np.ndarray) -> np.ndarray:
  # 0.299, 0.587, 0.114 in 16-bit fixed point: the same on every machine.
  weights = np.array([19595, 38470, 7471], np.uint32)
  luma = (images_bhwc.astype(np.uint32) * weights).sum(-1, dtype=np.uint32)
  return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _square(images_bhwc: np.ndarray) -> np.ndarray:
  height, width = images_bhwc.shape[1:3]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return images_bhwc[:, top : top + side, left : left + side]


def _resize(images_bhwc: np.ndarray, resolution: int) -> np.ndarray:
  side = images_bhwc.shape[1]
  if side in _FRAMED and side != resolution:
    frame = (_FRAMED[side] - side) // 2
    images_bhwc = np.pad(
      images_bhwc, ((0, 0), (frame, frame), (frame, frame), (0, 0))
    )
    side = _FRAMED[side]
  if side == resolution:
    return images_bhwc
  if side % resolution == 0:
    return _block_mean(images_bhwc, side // resolution)
  return _resample(images_bhwc, resolution)


def _block_mean(images_bhwc: np.ndarray, factor: int) -> np.ndarray:
  n, height, width, channels = images_bhwc.shape
  blocks = images_bhwc.reshape(
    n, height // factor, factor, width // factor, factor, channels
  )
  total = blocks.sum(axis=(2, 4), dtype=np.uint32)
  area = factor * factor
  return ((total + area // 2) // area).astype(np.uint8)


def _resample(images_bhwc: np.ndarray, resolution: int) -> np.ndarray:
  from PIL import Image

  shrinks = images_bhwc.shape[1] > resolution
  kernel = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
  n, _, _, channels = images_bhwc.shape
  out = np.empty((n, resolution, resolution, channels), np.uint8)
  for image, target in zip(images_bhwc, out, strict=True):
    for channel in range(channels):
      plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
      target[..., channel] = plane.resize((resolution, resolution), kernel)
  return out
