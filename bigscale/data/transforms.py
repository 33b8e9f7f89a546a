"""From the image of a source to the image a model takes. Pure numpy, uint8.

All of it is deterministic, and each image's result depends on that image alone.
"""

import numpy as np

from bigscale.data.manifest import DataError


def fit(
  image_hwc: np.ndarray, resolution: int, channels: int, padding: int = 0
) -> np.ndarray:
  """Makes an image square, of one size and of so many channels.

  An oblong image loses what lies outside the centred square. Where that is not
  of the size asked for, it gets a black frame of `padding`, and is resized
  (`resize`).

  Args:
    image_hwc: [H, W, C] uint8, C = 1 or 3.
    resolution: side of the result, pixels.
    channels: 1 (RGB becomes ITU-R 601 luma) or 3 (gray is repeated).
    padding: pixels of black on each side, as digits and clothes of 28 px are
      customarily framed, not stretched, to 32 px.

  Returns:
    [resolution, resolution, channels] uint8; the input itself where nothing
    is to be done.

  Raises:
    DataError: channels that cannot be converted.
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
  """`fit` to the size and channels of `out_hwc`, which is overwritten.

  Args:
    image_hwc: as `fit` takes it.
    out_hwc: [R, R, C] uint8.
    padding: as `fit` takes it.
    mirrored: left becomes right.
  """
  side, channels = out_hwc.shape[0], out_hwc.shape[-1]
  if image_hwc.shape != out_hwc.shape:
    image_hwc = fit(image_hwc, side, channels, padding)
  if not mirrored:
    out_hwc[...] = image_hwc
    return
  # Channel by channel: numpy turns rows of 3-byte pixels twice as slowly.
  for channel in range(channels):
    out_hwc[..., channel] = image_hwc[:, ::-1, channel]


def check_channels(found: int, wanted: int) -> None:
  """Raises `DataError` unless `fit` can make `wanted` channels of `found`."""
  if found not in (1, 3) or wanted not in (1, 3):
    raise DataError(
      f"images of {found} channels cannot feed a model of {wanted}: both must "
      "be 1 or 3; convert the images, or set model.image_channels"
    )


def luma(image_hwc: np.ndarray) -> np.ndarray:
  """ITU-R 601 luma of RGB [H, W, 3] uint8: [H, W, 1]."""
  # 0.299, 0.587, 0.114 in 16-bit fixed point: the same on every machine.
  weights = np.array([19595, 38470, 7471], np.uint32)
  luma = (image_hwc.astype(np.uint32) * weights).sum(-1, dtype=np.uint32)
  return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _square(image_hwc: np.ndarray) -> np.ndarray:
  height, width, _ = image_hwc.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return image_hwc[top : top + side, left : left + side]


def pad(image_hwc: np.ndarray, padding: int) -> np.ndarray:
  """Puts a black frame of `padding` pixels around an image [H, W, C] uint8."""
  if not padding:
    return image_hwc
  height, width, channels = image_hwc.shape
  # Several times as fast as `numpy.pad`.
  framed = np.zeros(
    (height + 2 * padding, width + 2 * padding, channels), np.uint8
  )
  framed[padding:-padding, padding:-padding] = image_hwc
  return framed


def resize(image_hwc: np.ndarray, resolution: int) -> np.ndarray:
  """Resizes a square image [S, S, C] uint8 to [resolution, resolution, C].

  Whole factors shrink by the mean of each block, other ones by area; smaller
  images grow by Lanczos.
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
