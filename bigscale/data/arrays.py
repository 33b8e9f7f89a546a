"""Images held in memory: arrays, and those of an .npz."""

import contextlib
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np
from etils import epath

from bigscale.data.manifest import DataError, Split
from bigscale.data.sources import Record, Source
from bigscale.data.splits import (
  HELDOUT_FRACTION,
  check_index,
  held_out,
  number_names,
  rows_of,
)


class ArraySource(Source):
  """A split of images held in memory.

  Images are held out by their place, about 5% of every class.

  Args:
    images: [N, H, W] or [N, H, W, C] uint8, C = 1 or 3; not to be changed.
    labels: [N] integers in [0, K), or None where there are none.
    class_names: name of label i at i; "0", "1" and so on where not given.
    name: of the set, for messages.
    split: `train` or `heldout`.
    heldout_fraction: of the images.

  Raises:
    DataError: the arrays are not such, do not fit together, or leave the split
      empty.
  """

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
    name: str = "array",
    split: Split = "train",
    heldout_fraction: float = HELDOUT_FRACTION,
  ) -> None:
    self._images = _check_images(np.asarray(images), name)
    self.class_names = tuple(str(each) for each in class_names)
    self._labels = None
    if labels is not None:
      self._labels = _check_labels(np.asarray(labels), len(images), name)
      classes = int(self._labels.max()) + 1
      self.class_names = self.class_names or number_names(classes, name)
      if len(self.class_names) < classes:
        raise DataError(
          f"{name} has label {classes - 1}, but names of "
          f"{len(self.class_names)} classes; name them all or none"
        )
    elif self.class_names:
      raise DataError(f"{name} has class names but no labels; give both")
    heldout = held_out(np.arange(len(images)), heldout_fraction)
    self._rows = rows_of(split, heldout, name)
    self.name = f"{name}/{split}"
    self._split = split

  def content(self) -> str:
    """See `Source`."""
    return f"array/{self._split}@{self._digest()[:16]}"

  def _digest(self) -> str:
    digest = hashlib.sha256()
    about = [self._images.shape[1:], self.class_names]
    digest.update(json.dumps(about).encode())
    for start in range(0, len(self._rows), 4096):
      digest.update(self._images[self._rows[start : start + 4096]].tobytes())
    if self._labels is not None:
      digest.update(self._labels[self._rows].astype("<i4").tobytes())
    return digest.hexdigest()

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return False

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return self._images.shape[1:]

  def __len__(self) -> int:
    return len(self._rows)

  def read(self, index: int) -> Record:
    """See `Source`. The image is a view, not to be written to."""
    check_index(index, len(self))
    row = self._rows[index]
    labels = () if self._labels is None else (int(self._labels[row]),)
    return Record(self._images[row], labels)

  def labels(self) -> np.ndarray:
    """See `Source`."""
    if self._labels is None:
      return np.zeros(len(self), np.int32)
    return self._labels[self._rows]

  @property
  def counts_quickly(self) -> bool:
    """See `Source`: all labels are in memory."""
    return True


def open_npz(
  path: str,
  split: Split = "train",
  heldout_fraction: float = HELDOUT_FRACTION,
) -> ArraySource:
  """Reads an .npz: `images`, and `labels` and `class_names` if it has them.

  Samples of many systems are an array without a name: `arr_0`.

  Raises:
    DataError: it is no such file, or its arrays are not as `ArraySource` takes
      them.
  """
  with _checked_arrays(path) as arrays:
    # The second is what numpy calls an array that was given no name.
    key = "images" if "images" in arrays else "arr_0"
    if key not in arrays:
      raise DataError(
        f"{path} holds {', '.join(arrays) or 'nothing'}, but no 'images'; "
        "save with numpy.savez(path, images=..., labels=...)"
      )
    images = arrays[key]
    labels = arrays.get("labels")
    names = arrays.get("class_names", ())
    names = tuple(str(name) for name in np.atleast_1d(names))
    known = (key, "labels", "class_names")
    others = sorted(other for other in arrays if other not in known)
  name = os.path.basename(path).removesuffix(".npz")
  try:
    source = ArraySource(images, labels, names, name, split, heldout_fraction)
  except DataError as error:
    raise type(error)(f"{path}: {error}") from error
  if others:
    source.notes = (f"{path}: arrays not read: {', '.join(others)}",)
  return source


@contextlib.contextmanager
def _checked_arrays(
  path: str | os.PathLike[str],
) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens an .npz whose arrays are as large as their headers say.

  A header that lies would have numpy ask for memory that no machine has.
  Raises `DataError` also where reading an array in the context fails.
  """
  try:
    with epath.Path(path).open("rb") as file:
      _check_sizes(file)
      file.seek(0)
      with np.load(file) as arrays:
        yield arrays
  except DataError:
    raise
  # Of damaged bytes zipfile, zlib and numpy raise nearly everything.
  except Exception as error:
    raise DataError(
      f"{path} cannot be read as .npz ({error}); save it again with "
      "numpy.savez(path, images=..., labels=...), arrays of numbers and text"
    ) from error


def _check_sizes(file: IO[bytes]) -> None:
  with zipfile.ZipFile(file) as archive:
    for entry in archive.infolist():
      if not entry.filename.endswith(".npy"):
        continue
      with archive.open(entry) as array:
        version = np.lib.format.read_magic(array)
        read = (
          np.lib.format.read_array_header_1_0
          if version == (1, 0)
          else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(array)
        told = math.prod(shape) * dtype.itemsize
        there = entry.file_size - array.tell()
      if any(side < 0 for side in shape) or (
        told != there and not dtype.hasobject
      ):
        raise ValueError(
          f"{entry.filename} says {dtype} {shape}, {told} bytes; it has {there}"
        )


def _check_images(images: np.ndarray, name: str) -> np.ndarray:
  """A read-only view [N, H, W, C]."""
  x_nhwc = images[..., None] if images.ndim == 3 else images
  if (
    x_nhwc.dtype != np.uint8
    or x_nhwc.ndim != 4
    or x_nhwc.shape[-1] not in (1, 3)
  ):
    raise DataError(
      f"images of {name} are {images.dtype} {images.shape}; they must be uint8 "
      "[N, H, W] or [N, H, W, C] with C = 1 or 3: convert or transpose them"
    )
  if 0 in x_nhwc.shape:
    raise DataError(
      f"{name} is empty: its images are {images.shape}; give it some"
    )
  x_nhwc = x_nhwc.view()
  x_nhwc.flags.writeable = False
  return x_nhwc


def _check_labels(labels: np.ndarray, records: int, name: str) -> np.ndarray:
  if labels.shape != (records,) or labels.dtype.kind not in "iu":
    raise DataError(
      f"labels of {name} are {labels.dtype} {labels.shape}; they must be "
      f"integers ({records},), one for every image"
    )
  if labels.min() < 0 or labels.max() >= 2**31:
    raise DataError(
      f"labels of {name} lie in [{labels.min()}, {labels.max()}]; they must "
      "count from 0 and fit 31 bits: number the classes anew"
    )
  return labels.astype(np.int32)
