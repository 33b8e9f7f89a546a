"""The interface of data sources: labeled images, read by index."""

import abc
import contextlib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.shown import shown

# The labels of this many records are read in a second or two.
FEW_RECORDS = 200_000

# Images of this side had this padding before padding was a setting.
_EARLIER_SIDE, _EARLIER_PADDING = 28, 2


class Record(NamedTuple):
  """One record.

  Attributes:
    image: [H, W, C] uint8, C = 1 or 3.
    labels: labels in [0, num_classes); one in most sources, () in an
      unlabeled source.
  """

  image: np.ndarray
  labels: tuple[int, ...]


class MissingFile(NamedTuple):
  """A file that cannot be used.

  Attributes:
    message: names the file, the reason and the remedy.
    records: number of records that it should contain.
  """

  message: str
  records: int


class Source(abc.ABC):
  """One split of a data set. Sources are thread-safe and picklable.

  Subclasses define `class_names`, `__len__`, `read`, `labels` and `content`.
  Everything else has a default; docs/how-to/extend.md explains how to add a
  source.

  Attributes:
    class_names: name of each label; () in an unlabeled source.
    padding: black pixels added on each side of an image after it is cropped to
      a square and before it is resized (`transforms.fit`).
    notes: sentences for the user about how the files were interpreted, and what
      was left out (`notes.warn` logs them).
  """

  class_names: tuple[str, ...]
  padding: int = 0
  notes: tuple[str, ...] = ()

  def __repr__(self) -> str:
    return f"{type(self).__name__}({shown(self.name)})"

  # Cached properties instead of plain ones, so that subclasses can assign them.
  @functools.cached_property
  def name(self) -> str:
    """Name for messages. Different sources may have the same name."""
    return self.identity

  @functools.cached_property
  def identity(self) -> str:
    """Name of the data that a model sees, independent of file locations.

    Equal identities mean equal records, in every process and on every machine.
    The first access may read all files (`content`).
    """
    if not self.padding:
      return self.content()
    return f"{self.content()} padded {self.padding}"

  @property
  def earlier_identity(self) -> str:
    """Identity in versions that padded all images of 28 px by 2 pixels.

    It equals their identity only if the padded pixels are equal.
    """
    shape = self.image_shape
    framed = shape is not None and min(shape[:2]) == _EARLIER_SIDE
    content = self.identity.removesuffix(f" padded {self.padding}")
    if self.padding == (_EARLIER_PADDING if framed else 0):
      return content
    return f"{content} padded {self.padding}"

  @functools.cached_property
  def outline(self) -> str:
    """Part of the identity that is known without reading all files.

    Processes that read the same data have equal outlines. Outlines are compared
    at the start of a run, while only one process computes the identity.
    """
    return self.identity

  def content(self) -> str:
    """Returns a name for the content of all records, excluding padding.

    Every subclass defines this method, or overrides `identity`.
    """
    raise NotImplementedError(f"{type(self).__name__} has no content")

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 in an unlabeled source."""
    return len(self.class_names)

  @property
  def file_records(self) -> tuple[int, ...]:
    """Number of records in each file; one total if files do not matter."""
    return (len(self),)

  @property
  def decodes(self) -> bool:
    """Whether reading decodes images, which more threads can speed up."""
    return True

  @property
  def several_labels(self) -> bool:
    """Whether a record may have more than one label."""
    return False

  @property
  def counts_quickly(self) -> bool:
    """Whether `label_counts` reads at most `FEW_RECORDS` records."""
    return len(self) <= FEW_RECORDS

  def padding_of(self, index: int) -> int:
    """Returns the `padding` of one record, which varies within a mixture."""
    del index
    return self.padding

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """Height, width and channels if all images share them, else None."""
    return None

  def shape(self, index: int) -> tuple[int, int, int]:
    """Returns a record's height, width and channels; reads as little as it can.

    Raises:
      BadRecordError: the record cannot be used.
    """
    return self.image_shape or self.read(index).image.shape

  def where(self, index: int) -> str:
    """Returns the name of the file that contains a record, for messages."""
    return f"record {index} of {self.identity}"

  def check_room(self, together: int) -> None:
    """Raises `DataError` if `together` files cannot be read at the same time.

    Copies of remote files may need more disk space than there is.
    """
    del together

  def fetch_ahead(
    self, present: Sequence[int], following: Sequence[int]
  ) -> None:
    """Prepares the reading of files, given as indices into `file_records`.

    Args:
      present: files that are being read.
      following: files that are read after them.
    """
    del present, following

  def check(self) -> tuple[MissingFile, ...]:
    """Quickly checks for files that are missing or have changed."""
    return ()

  @abc.abstractmethod
  def read(self, index: int) -> Record:
    """Reads the record at `index` in [0, len(self)).

    Raises:
      BadRecordError: the record cannot be used.
    """

  @abc.abstractmethod
  def labels(self) -> np.ndarray:
    """Returns the first label of every record: [N] int32, 0 if unlabeled.

    It may read the whole source.
    """

  def labels_of(self, index: int) -> tuple[int, ...]:
    """Returns all labels of a record, reading as little as it can.

    Raises:
      BadRecordError: the record cannot be used.
    """
    return self.read(index).labels

  def label_counts(self) -> np.ndarray:
    """Returns the number of records of each class: [num_classes] float64.

    A record with n labels adds 1 / n to each of its classes. Unreadable records
    are not counted. The method may read the whole source.
    """
    if not self.several_labels:
      found = np.bincount(self.labels(), minlength=self.num_classes)
      return found[: self.num_classes].astype(np.float64)
    counts = np.zeros(self.num_classes)
    for index in range(len(self)):
      with contextlib.suppress(BadRecordError):
        labels = self.labels_of(index)
        for label in labels:
          counts[label] += 1 / len(labels)
    return counts

  def empty_classes(self) -> tuple[int, ...] | None:
    """Returns the classes without records.

    Returns:
      None if this would read more than `FEW_RECORDS` records.
    """
    if not self.num_classes:
      return ()
    if not self.counts_quickly:
      return None
    return tuple(np.flatnonzero(self.label_counts() == 0).tolist())


class BadRecordError(DataError):
  """A record that cannot be used.

  Attributes:
    source: `name` of the source.
    index: index of the record.
    reason: what is wrong; continues a sentence that starts with "it".
    where: file that contains the record, so that the user can fix it.
  """

  def __init__(self, source: str, index: int, reason: str, where: str) -> None:
    """See the attributes."""
    super().__init__(
      f"record {index} of {source} ({where}) cannot be used: {reason}; fix "
      "it, or set data.bad_records='skip'"
    )
    self.source = source
    self.index = index
    self.reason = reason
    self.where = where

  def __reduce__(self) -> tuple[type, tuple[str, int, str, str]]:
    # Worker processes send this error to the main process.
    return type(self), (self.source, self.index, self.reason, self.where)


def padding_of(source: Source, index: int = 0) -> int:
  """Returns a record's padding; 0 if a user's source does not define it."""
  known = getattr(source, "padding_of", None)
  return known(index) if known else 0
