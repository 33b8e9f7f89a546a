"""Nested subsets of a source, by number of images and number of classes.

The selected images and classes depend only on the source's size, so runs with
different seeds, and sweeps over sizes, share them. The held-out split keeps all
of its images of the selected classes, and is never trained on.
"""

import functools

import numpy as np

from bigscale.data.hashing import Permutation
from bigscale.data.manifest import DataError
from bigscale.data.sources import MissingFile, Record, Source

_RECORDS_KEY = 0x53554253
_CLASSES_KEY = 0x434C4153


class Subset(Source):
  """A subset of the records of another source.

  Attributes:
    whole: source of all records.
  """

  def __init__(self, source: Source, size: int = 0, classes: int = 0) -> None:
    """Selects the first records of a fixed random order.

    Args:
      source: source of all records.
      size: number of images to keep; 0 keeps all.
      classes: number of classes to keep, renumbered from 0; 0 keeps all. A
        value above 0 reads all labels.

    Raises:
      DataError: there are too few images or classes, or no labels.
    """
    self.whole = source
    self._size = size
    self._classes: np.ndarray | None = None
    self._kept: np.ndarray | None = None
    if classes:
      self._keep_classes(classes)
    available = len(source) if self._kept is None else len(self._kept)
    if size > available:
      raise DataError(
        f"data.subset={size}, but {source!r} has {available} matching images; "
        f"use {available} or less"
      )
    if not available:
      raise DataError(
        f"data.classes={classes} leaves no image of {source!r}; use more"
      )
    self._available = available
    self._length = size or available
    self.notes = source.notes
    self.class_names = source.class_names
    parts = [f"{size} images"] if size else []
    if self._classes is not None:
      names = source.class_names
      self.class_names = tuple(names[old] for old in self._classes)
      parts.append(f"{classes} classes")
    self.padding = source.padding
    self._part = f"[{', '.join(parts)}]"
    self.name = f"{source.name}{self._part}"

  def _keep_classes(self, classes: int) -> None:
    source = self.whole
    if classes > source.num_classes:
      raise DataError(
        f"data.classes={classes}, but {source!r} has {source.num_classes} "
        f"classes; use at most {source.num_classes}"
      )
    order = Permutation(source.num_classes, _CLASSES_KEY)
    self._classes = order(np.arange(classes))
    self._new_label = {
      old: new for new, old in enumerate(self._classes.tolist())
    }
    of_class = np.zeros(source.num_classes, bool)
    of_class[self._classes] = True
    self._kept = np.flatnonzero(of_class[source.labels()])

  @property
  def identity(self) -> str:
    """See `Source`."""
    return f"{self.whole.identity}{self._part}"

  @property
  def earlier_identity(self) -> str:
    """See `Source`."""
    return f"{self.whole.earlier_identity}{self._part}"

  @property
  def outline(self) -> str:
    """See `Source`."""
    return f"{self.whole.outline}{self._part}"

  def __len__(self) -> int:
    return self._length

  @property
  def kept_classes(self) -> tuple[int, ...]:
    """The whole source's class of each new label; () if all are kept."""
    return () if self._classes is None else tuple(self._classes.tolist())

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return self.whole.decodes

  @property
  def several_labels(self) -> bool:
    """See `Source`."""
    return self.whole.several_labels

  @property
  def counts_quickly(self) -> bool:
    """See `Source`; multiple labels are read record by record."""
    return super().counts_quickly and not self.several_labels

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """See `Source`."""
    return self.whole.image_shape

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`."""
    return self.whole.shape(int(self._outer(np.array([index]))[0]))

  def where(self, index: int) -> str:
    """See `Source`."""
    return self.whole.where(int(self._outer(np.array([index]))[0]))

  def check_room(self, together: int) -> None:
    """See `Source`: a subset may have records of any file."""
    del together
    self.whole.check_room(len(self.whole.file_records))

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`."""
    return self.whole.check()

  def read(self, index: int) -> Record:
    """See `Source`."""
    image, labels = self.whole.read(int(self._outer(np.array([index]))[0]))
    return Record(image, self._renumber(labels))

  def labels_of(self, index: int) -> tuple[int, ...]:
    """See `Source`."""
    outer = int(self._outer(np.array([index]))[0])
    return self._renumber(self.whole.labels_of(outer))

  def _renumber(self, labels: tuple[int, ...]) -> tuple[int, ...]:
    if self._classes is None:
      return labels
    return tuple(self._new_label[i] for i in labels if i in self._new_label)

  def labels(self) -> np.ndarray:
    """See `Source`."""
    labels = self.whole.labels()[self._outer(np.arange(self._length))]
    if self._classes is None:
      return labels
    table = np.zeros(self.whole.num_classes, np.int32)
    table[self._classes] = np.arange(len(self._classes))
    return table[labels]

  def _outer(self, indices: np.ndarray) -> np.ndarray:
    """Maps indices to those of the whole source."""
    if self._size:
      indices = self._order(indices)
    return indices if self._kept is None else self._kept[indices]

  @functools.cached_property
  def _order(self) -> Permutation:
    return Permutation(self._available, _RECORDS_KEY)
