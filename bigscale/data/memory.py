"""Images that no file needs to be opened for: arrays, and made-up ones."""

import colorsys
import hashlib
import json
import os
from typing import Any

import numpy as np

from bigscale.data import hashing
from bigscale.data.manifest import DataError, Split
from bigscale.data.npz import open_npz
from bigscale.data.sources import Sample, Source
from bigscale.data.splits import (
  HELDOUT_FRACTION,
  MOST_CLASSES,
  check_index,
  check_split,
  held_out,
  number_names,
  rows_of,
)

# Keys of the uses of random bits, and which images they make.
_FIRST_LABEL, _MORE_LABELS, _DISCS = (
  hashing.key_of(0, use) for use in range(1, 4)
)
_VERSION = 1

_MOST_RECORDS = 2**40
_MOST_LABELS_LISTED = 100_000_000
_LABELS_AT_ONCE = 1 << 20
_SYNTAX = "synthetic:RECORDS:SIDE:CLASSES or ...:CLASSES:LABELS_PER_RECORD"


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

  def _content(self) -> str:
    return f"array/{self._split}@{self._digest()[:16]}"

  @classmethod
  def load(
    cls,
    path: str,
    split: Split = "train",
    heldout_fraction: float = HELDOUT_FRACTION,
  ) -> "ArraySource":
    """Reads an .npz: `images`, and `labels` and `class_names` if it has them.

    Samples of many systems are an array without a name: `arr_0`.

    Raises:
      DataError: it is no such file, or the arrays are not as the class says.
    """
    with open_npz(path) as arrays:
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
      source = cls(images, labels, names, name, split, heldout_fraction)
    except DataError as error:
      raise type(error)(f"{path}: {error}") from error
    if others:
      source.notes = (f"{path}: arrays not read: {', '.join(others)}",)
    return source

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

  def read(self, index: int) -> Sample:
    """See `Source`. The image is a view, not to be written to."""
    check_index(index, len(self))
    row = self._rows[index]
    labels = () if self._labels is None else (int(self._labels[row]),)
    return Sample(self._images[row], labels)

  def labels(self) -> np.ndarray:
    """See `Source`."""
    if self._labels is None:
      return np.zeros(len(self), np.int32)
    return self._labels[self._rows]

  @property
  def counts_quickly(self) -> bool:
    """See `Source`: all labels are in memory."""
    return True


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


class SyntheticSource(Source):
  """Made-up images: a disc in the colour of each label, on gray.

  Any number of them, in no memory: place, size, shade and labels are a
  function of the index. The held-out split has another twentieth of
  `records`, of indices that training never meets.

  Args:
    records: of the train split.
    side: of the square images, px.
    classes: labels there are; 0 for unlabelled.
    labels_per_record: all different.
    split: `train` or `heldout`.

  Raises:
    DataError: a number is too small or too large.
  """

  def __init__(
    self,
    records: int,
    side: int,
    classes: int,
    labels_per_record: int = 1,
    split: Split = "train",
  ) -> None:
    _check_range("records", records, 1, _MOST_RECORDS)
    _check_range("side", side, 1, 4096)
    _check_range("classes", classes, 0, MOST_CLASSES)
    most = min(64, max(1, classes))
    _check_range("labels_per_record", labels_per_record, 1, most)
    check_split(split)
    self._side = side
    self._classes = classes
    self._per_record = labels_per_record
    self._split = split
    heldout = split == "heldout"
    self._first = records if heldout else 0
    self._records = max(1, records // 20) if heldout else records
    numbers = f"{records}:{side}:{classes}:{labels_per_record}"
    self.class_names = number_names(classes)
    self.name = f"synthetic:{numbers}/{split}@v{_VERSION}"

  def _content(self) -> str:
    return self.name

  @classmethod
  def parse(cls, text: str, split: Split = "train") -> "SyntheticSource":
    """Makes one of "RECORDS:SIDE:CLASSES" or "...:LABELS_PER_RECORD".

    Raises:
      DataError: the text is not that, or a number is too small or too large.
    """
    try:
      numbers = [int(part) for part in text.split(":")]
    except ValueError:
      numbers = []
    if len(numbers) not in (3, 4):
      raise DataError(
        f"'synthetic:{text}' must be {_SYNTAX}, whole numbers, as "
        "synthetic:1_000_000:64:1000"
      )
    return cls(*numbers, split=split)

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return False

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (self._side, self._side, 3)

  @property
  def several_labels(self) -> bool:
    """See `Source`."""
    return self._per_record > 1

  def labels_of(self, index: int) -> tuple[int, ...]:
    """See `Source`: no image is painted for it."""
    return self._labels_of(self._first + index)

  def __len__(self) -> int:
    return self._records

  def read(self, index: int) -> Sample:
    """See `Source`."""
    check_index(index, len(self))
    place = self._first + index
    labels = self._labels_of(place)
    return Sample(self._paint(place, labels), labels)

  def labels(self) -> np.ndarray:
    """See `Source`.

    Raises:
      DataError: there are more than 100 million records.
    """
    if self._records > _MOST_LABELS_LISTED:
      raise DataError(
        f"the labels of {self._records} records are too many to list: at most "
        f"{_MOST_LABELS_LISTED}; draw labels uniformly, or from a smaller "
        "synthetic source: the shares are the same"
      )
    labels = np.zeros(self._records, np.int32)
    if self._classes:
      for start in range(0, self._records, _LABELS_AT_ONCE):
        end = min(start + _LABELS_AT_ONCE, self._records)
        labels[start:end] = self._first_labels(
          np.arange(self._first + start, self._first + end, dtype=np.uint64)
        )
    return labels

  def _first_labels(self, places: np.ndarray) -> np.ndarray:
    bits = hashing.scramble(_FIRST_LABEL, places)
    return bits % np.uint64(self._classes)

  def _labels_of(self, place: int) -> tuple[int, ...]:
    if not self._classes:
      return ()
    first = int(self._first_labels(np.uint64(place)))
    more = self._per_record - 1
    if not more:
      return (first,)
    # Floyd's sample of `more` different steps from the first label.
    bits = _draw(_MORE_LABELS, place, more)
    steps: list[int] = []
    for bit, last in zip(
      bits, range(self._classes - more, self._classes), strict=True
    ):
      step = 1 + bit % last
      steps.append(last if step in steps else step)
    return (first, *((first + step) % self._classes for step in steps))

  def _paint(self, place: int, labels: tuple[int, ...]) -> np.ndarray:
    discs = max(1, len(labels))
    units = [bits / 2**64 for bits in _draw(_DISCS, place, 2 + 5 * discs)]
    side = self._side
    # Pixels of four bytes: copying under a mask is far faster than of three.
    plane = np.full((side, side), _pixel([int(units[0] * 256)] * 3))
    steps = np.arange(side, dtype=np.float32)
    for disc in range(discs):
      x, y, size, saturation, value = units[2 + 5 * disc : 7 + 5 * disc]
      hue = labels[disc] / self._classes if labels else units[1]
      colour = colorsys.hsv_to_rgb(
        hue, 0.6 + 0.4 * saturation, 0.6 + 0.4 * value
      )
      radius = side * (0.15 + 0.2 * size)
      centres = (side * (0.2 + 0.6 * y), side * (0.2 + 0.6 * x))
      rows, columns = (
        slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centres
      )
      inside = (
        np.square(steps[rows] - centres[0])[:, None]
        + np.square(steps[columns] - centres[1])
        < radius * radius
      )
      pixel = _pixel([int(255 * part) for part in colour])
      np.copyto(plane[rows, columns], pixel, where=inside)
    x_hwc = plane.view(np.uint8).reshape(side, side, 4)
    return np.ascontiguousarray(x_hwc[..., :3])


def _pixel(colour: list[int]) -> np.uint32:
  return np.array([*colour, 255], np.uint8).view(np.uint32)[0]


def _draw(key: np.uint64, place: int, count: int) -> list[int]:
  """`count` times 64 bits that belong to a place."""
  places = np.uint64(place * count) + np.arange(count, dtype=np.uint64)
  return hashing.scramble(key, places).tolist()


def _check_range(what: str, value: Any, least: int, most: int) -> None:
  if not least <= value <= most:
    raise DataError(
      f"a synthetic source with {what}={value}: it must lie in [{least}, "
      f"{most}]; write {_SYNTAX}"
    )
