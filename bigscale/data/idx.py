"""Reads the idx files of MNIST."""

import gzip
import math
import os
import zlib
from typing import IO

import numpy as np

from bigscale.data import splits
from bigscale.data.arrays import ArraySource
from bigscale.data.manifest import DataError, Split
from bigscale.data.places import open_file

_GZIP = b"\x1f\x8b"
_UINT8 = b"\0\0\x08"
# Largest compression ratio of gzip, as stated by zlib.
_GZIP_FACTOR = 1032
_CHUNK_BYTES = 1 << 20
# Largest rank before numpy 2.
_MAX_RANK = 32


class IdxSource(ArraySource):
  """A split of MNIST's idx files, read into memory.

  The files may be compressed by gzip. Classes are named "0", "1" and so on. A
  hash of an image's index decides whether the image is held out.

  Args:
    images_path: file of uint8 images [N, H, W] or [N, H, W, C].
    labels_path: file of uint8 labels [N]; None for an unlabeled set.
    split: `train` or `heldout`.
    heldout_fraction: fraction of the images that is held out.

  Raises:
    DataError: a file is not a valid idx file, or the two do not match.
  """

  def __init__(
    self,
    images_path: str,
    labels_path: str | None = None,
    split: Split = "train",
    heldout_fraction: float = splits.HELDOUT_FRACTION,
  ) -> None:
    images = read_idx(images_path)
    if images.ndim not in (3, 4):
      raise DataError(
        f"{images_path} has {_axes(images)}, but images have 3 or 4; write "
        "idx:IMAGES,LABELS, with the file of the images first"
      )
    labels = None if labels_path is None else read_idx(labels_path)
    if labels is not None and labels.ndim != 1:
      raise DataError(
        f"{labels_path} has {_axes(labels)}, but labels have 1; write "
        "idx:IMAGES,LABELS, with the file of the labels last"
      )
    super().__init__(
      images,
      labels,
      name=os.path.basename(images_path).removesuffix(".gz"),
      split=split,
      heldout_fraction=heldout_fraction,
    )


def _axes(values: np.ndarray) -> str:
  axes = "axis" if values.ndim == 1 else "axes"
  return f"{values.ndim} {axes} {values.shape}"


def read_idx(path: str) -> np.ndarray:
  """Reads a uint8 idx file of any rank, which gzip may have compressed.

  The format: two zero bytes, the type, the rank, each axis as a big-endian
  int32, then the values (LeCun, Cortes and Burges, the MNIST database).

  Raises:
    DataError: the file cannot be read, or is not a uint8 idx file.
  """
  try:
    with open_file(path) as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(0)
      packed = file.read(len(_GZIP)) == _GZIP
      file.seek(0)
      if not packed:
        return _read_values(file, size, path)
      with gzip.GzipFile(fileobj=file) as unpacked:
        return _read_values(unpacked, _GZIP_FACTOR * size, path)
  except (OSError, EOFError, zlib.error) as error:
    raise DataError(
      f"{path} cannot be read ({error}); copy it again, or check the path"
    ) from error


def _read_values(file: IO[bytes], most: int, path: str) -> np.ndarray:
  """Returns the values of an idx file, reading no more than its header claims.

  Args:
    file: the opened file.
    most: maximum number of values, each of one byte, that fit the file.
    path: path of the file, for messages.
  """
  start = file.read(4)
  rank = start[3] if len(start) == 4 else 0
  axes = file.read(4 * rank)
  if start[:3] != _UINT8 or len(axes) < 4 * rank:
    raise DataError(
      f"{path} is not an idx file of uint8: it starts with {start.hex()!r}; "
      "use the original file"
    )
  shape = tuple(np.frombuffer(axes, ">i4").tolist())
  size = math.prod(shape)
  if min(shape, default=1) < 0 or rank > _MAX_RANK or size > most:
    raise DataError(
      f"{path} claims the shape {shape}, which does not fit the file; copy "
      "it again"
    )
  values = np.empty(size, np.uint8)
  view, found = memoryview(values), 0
  while read := file.readinto(view[found : found + _CHUNK_BYTES]):
    found += read
  if found != size or file.read(1):
    more = "more" if found == size else f"{found}"
    raise DataError(
      f"{path} has {more} values, but claims the shape {shape}; copy it again"
    )
  return values.reshape(shape)
