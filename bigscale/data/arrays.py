"""Sources of images in memory: arrays, or the arrays of an .npz file."""

import contextlib
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from bigscale.data import places
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
  """A split of images in memory.

  A hash of an image's index decides whether the image is held out. By default,
  about 5% of every class are held out.

  Args:
    images: [N, H, W] or [N, H, W, C] uint8, C = 1 or 3; must not be modified.
    labels: [N] integers in [0, K), or None for an unlabeled set.
    class_names: name of each label; "0", "1" and so on by default.
    name: name of the data set, for messages.
    split: `train` or `heldout`.
    heldout_fraction: fraction of the images that is held out.

  Raises:
    DataError: an array has the wrong shape, type or range, the arrays do not
      match, or the split would be empty.
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
          f"{name} has label {classes - 1}, but class_names has length "
          f"{len(self.class_names)}; name all classes or none"
        )
    elif self.class_names:
      raise DataError(f"{name} has class names but no labels; pass both")
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
    """See `Source`. The image is a read-only view."""
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
  """Reads an .npz with `images` and, optionally, `labels` and `class_names`.

  If there is no array named `images`, `arr_0` is read: many systems write
  their samples as one unnamed array.

  Raises:
    DataError: the file cannot be read, or `ArraySource` rejects its arrays.
  """
  with _checked_arrays(path) as arrays:
    # numpy calls an unnamed array arr_0.
    key = "images" if "images" in arrays else "arr_0"
    if key not in arrays:
      raise DataError(
        f"{path} contains {', '.join(arrays) or 'nothing'}, but no 'images'; "
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
    source.notes = (f"{path}: unused arrays: {', '.join(others)}",)
  return source


@contextlib.contextmanager
def _checked_arrays(
  path: str | os.PathLike[str],
) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens an .npz whose arrays are as large as their headers claim.

  With a wrong header, numpy may try to allocate more memory than the machine
  has. Raises `DataError` also if reading an array inside the context fails.
  """
  try:
    with places.open_file(os.fspath(path)) as file:
      _check_sizes(file)
      file.seek(0)
      with np.load(file) as arrays:
        yield arrays
  except DataError:
    raise
  # On damaged bytes, zipfile, zlib and numpy raise almost any exception.
  except Exception as error:
    raise DataError(
      f"{path} cannot be read as .npz ({error}); save it again with "
      "numpy.savez(path, images=..., labels=...), using number and text arrays"
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
        claimed = math.prod(shape) * dtype.itemsize
        actual = entry.file_size - array.tell()
      if any(side < 0 for side in shape) or (
        claimed != actual and not dtype.hasobject
      ):
        raise ValueError(
          f"{entry.filename} claims {dtype} {shape}, which is {claimed} bytes, "
          f"but has {actual}"
        )


def _check_images(images: np.ndarray, name: str) -> np.ndarray:
  """Returns a read-only view [N, H, W, C]."""
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
      f"{name} is empty: its images have shape {images.shape}; add images"
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
      "lie in [0, 2^31): renumber the classes from 0"
    )
  return labels.astype(np.int32)
