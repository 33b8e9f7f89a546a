"""The idx files of MNIST."""

import gzip
import math
import os
import zlib
from typing import IO

import numpy as np
from etils import epath

from bigscale.data import splits
from bigscale.data.arrays import ArraySource
from bigscale.data.manifest import DataError, Split
from bigscale.data.places import local_path

_GZIP = b"\x1f\x8b"
_UINT8 = b"\0\0\x08"
# Bytes that gzip makes of one, at most (zlib's own figure).
_GZIP_FACTOR = 1032
_PIECE = 1 << 20
# More than numpy had before its second version.
_MOST_AXES = 32


class IdxSource(ArraySource):
  """A split of MNIST's idx files, compressed by gzip or not, read whole.

  Classes are named "0", "1" and so on. Images are held out by their place.

  Args:
    images_path: [N, H, W] or [N, H, W, C] of uint8.
    labels_path: [N] of uint8; None where there are none.
    split: `train` or `heldout`.
    heldout_fraction: of the images.

  Raises:
    DataError: a file is no such idx file, or the two do not fit together.
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
        f"{images_path} has {_axes(images)}, and images have 3 or 4; write "
        "idx:IMAGES,LABELS, the file of the images first"
      )
    labels = None if labels_path is None else read_idx(labels_path)
    if labels is not None and labels.ndim != 1:
      raise DataError(
        f"{labels_path} has {_axes(labels)}, and labels have 1; write "
        "idx:IMAGES,LABELS, the file of the labels last"
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
  """Reads an idx file of uint8, of any rank, compressed by gzip or not.

  The format: two zero bytes, the type, the rank, each axis as a big-endian
  int32, then the values (LeCun, Cortes and Burges, the MNIST database).

  Raises:
    DataError: it cannot be read, or is no such file.
  """
  try:
    place = epath.Path(local_path(path))
    size = place.stat().length
    with place.open("rb") as file:
      packed = file.read(len(_GZIP)) == _GZIP
      file.seek(0)
      if not packed:
        return _values(file, size, path)
      with gzip.GzipFile(fileobj=file) as unpacked:
        return _values(unpacked, _GZIP_FACTOR * size, path)
  except (OSError, EOFError, zlib.error) as error:
    raise DataError(
      f"{path} cannot be read ({error}); copy it again, or check the path"
    ) from error


def _values(file: IO[bytes], most: int, path: str) -> np.ndarray:
  """The values of an idx file, of which no more are read than it claims.

  Args:
    file: opened.
    most: bytes that it can have.
    path: for messages.
  """
  start = file.read(4)
  rank = start[3] if len(start) == 4 else 0
  axes = file.read(4 * rank)
  if start[:3] != _UINT8 or len(axes) < 4 * rank:
    raise DataError(
      f"{path} is not an idx file of uint8: it starts with {start.hex()!r}; "
      "name the original file"
    )
  shape = tuple(np.frombuffer(axes, ">i4").tolist())
  size = math.prod(shape)
  if min(shape, default=1) < 0 or rank > _MOST_AXES or size > most:
    raise DataError(f"{path} says {shape}, which it cannot hold; copy it again")
  values = np.empty(size, np.uint8)
  view, found = memoryview(values), 0
  while read := file.readinto(view[found : found + _PIECE]):
    found += read
  if found != size or file.read(1):
    more = "more" if found == size else f"{found}"
    raise DataError(
      f"{path} has {more} values, but says {shape}; copy it again"
    )
  return values.reshape(shape)
