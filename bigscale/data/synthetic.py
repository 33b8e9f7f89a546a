"""Any number of synthetic images, each computed from its index."""

import colorsys
from typing import Any

import numpy as np

from bigscale.data import hashing
from bigscale.data.manifest import DataError, Split
from bigscale.data.sources import Record, Source
from bigscale.data.splits import (
  MOST_CLASSES,
  check_index,
  check_split,
  number_names,
)

# Keys of the random bits. They determine the images.
_FIRST_LABEL, _MORE_LABELS, _DISCS = (
  hashing.key_of(0, use) for use in range(1, 4)
)
_VERSION = 1

_MAX_RECORDS = 2**40
_MAX_LISTED_LABELS = 100_000_000
_LABELS_AT_ONCE = 1 << 20
_SYNTAX = "synthetic:RECORDS:SIDE:CLASSES or ...:CLASSES:LABELS_PER_RECORD"


class SyntheticSource(Source):
  """Synthetic images: a disc in the color of each label, on gray.

  Position, size, shade and labels are functions of the index, so no image is
  stored. The held-out split has 1/20 as many records as the train split, with
  indices that the train split does not use.

  Args:
    records: number of records of the train split.
    side: side of the square images in pixels.
    classes: number of classes; 0 for an unlabeled set.
    labels_per_record: number of different labels of each record.
    split: `train` or `heldout`.

  Raises:
    DataError: an argument is out of range.
  """

  def __init__(
    self,
    records: int,
    side: int,
    classes: int,
    labels_per_record: int = 1,
    split: Split = "train",
  ) -> None:
    _check_range("records", records, 1, _MAX_RECORDS)
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

  def content(self) -> str:
    """See `Source`."""
    return self.name

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
    """See `Source`: does not paint the image."""
    return self._labels_of(self._first + index)

  def __len__(self) -> int:
    return self._records

  def read(self, index: int) -> Record:
    """See `Source`."""
    check_index(index, len(self))
    place = self._first + index
    labels = self._labels_of(place)
    return Record(self._paint(place, labels), labels)

  def labels(self) -> np.ndarray:
    """See `Source`.

    Raises:
      DataError: there are more than 100 million records.
    """
    if self._records > _MAX_LISTED_LABELS:
      raise DataError(
        f"the labels of {self._records} records are too many to list (at most "
        f"{_MAX_LISTED_LABELS}); sample labels uniformly, or from a smaller "
        "synthetic source, which has the same class distribution"
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
    # Floyd's algorithm samples `more` distinct offsets from the first label.
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
    # Masked copies of 4-byte pixels are much faster than of 3-byte pixels.
    plane = np.full((side, side), _pixel([int(units[0] * 256)] * 3))
    steps = np.arange(side, dtype=np.float32)
    for disc in range(discs):
      x, y, size, saturation, value = units[2 + 5 * disc : 7 + 5 * disc]
      hue = labels[disc] / self._classes if labels else units[1]
      color = colorsys.hsv_to_rgb(
        hue, 0.6 + 0.4 * saturation, 0.6 + 0.4 * value
      )
      radius = side * (0.15 + 0.2 * size)
      centers = (side * (0.2 + 0.6 * y), side * (0.2 + 0.6 * x))
      rows, columns = (
        slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centers
      )
      inside = (
        np.square(steps[rows] - centers[0])[:, None]
        + np.square(steps[columns] - centers[1])
        < radius * radius
      )
      pixel = _pixel([int(255 * part) for part in color])
      np.copyto(plane[rows, columns], pixel, where=inside)
    x_hwc = plane.view(np.uint8).reshape(side, side, 4)
    return np.ascontiguousarray(x_hwc[..., :3])


def open_synthetic(text: str, split: Split = "train") -> SyntheticSource:
  """Opens "RECORDS:SIDE:CLASSES" or "...:LABELS_PER_RECORD".

  Raises:
    DataError: the text has another form, or a number is out of range.
  """
  try:
    numbers = [int(part) for part in text.split(":")]
  except ValueError:
    numbers = []
  if len(numbers) not in (3, 4):
    raise DataError(
      f"'synthetic:{text}' must be {_SYNTAX} in whole numbers, such as "
      "synthetic:1_000_000:64:1000"
    )
  return SyntheticSource(*numbers, split=split)


def _pixel(color: list[int]) -> np.uint32:
  return np.array([*color, 255], np.uint8).view(np.uint32)[0]


def _draw(key: np.uint64, place: int, count: int) -> list[int]:
  """Returns `count` random 64-bit integers for an index."""
  places = np.uint64(place * count) + np.arange(count, dtype=np.uint64)
  return hashing.scramble(key, places).tolist()


def _check_range(what: str, value: Any, least: int, most: int) -> None:
  if not least <= value <= most:
    raise DataError(
      f"{what}={value} of a synthetic source must lie in [{least}, {most}]; "
      f"write {_SYNTAX}"
    )
