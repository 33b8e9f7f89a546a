"""What a source is: images with labels, read by index."""

import abc
import contextlib
import functools
from typing import NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.shown import shown

# Labels of so many are read in a second or two.
FEW_RECORDS = 200_000

# What images of that side got before padding was a setting.
_EARLIER_SIDE, _EARLIER_PADDING = 28, 2


class Record(NamedTuple):
  """One record.

  Attributes:
    image: [H, W, C] uint8, C = 1 or 3.
    labels: those it carries, each in [0, num_classes); one in most sources,
      () in an unlabelled one.
  """

  image: np.ndarray
  labels: tuple[int, ...]


class MissingFile(NamedTuple):
  """A file that cannot be used.

  Attributes:
    message: which, why, and what to do.
    records: that it should hold.
  """

  message: str
  records: int


class Source(abc.ABC):
  """One split of a data set. Safe to read from many threads; picklable.

  Every source has `class_names`, `__len__`, `read`, `labels` and `content`. The
  rest has defaults; docs/how-to/extend.md shows how to add one.

  Attributes:
    class_names: name of label i at i; () in an unlabelled source.
    padding: pixels of black that a model's image gets on each side of one of
      these, once that is cropped to a square (`transforms.fit`).
    notes: sentences on what is in the data and was left out, and on how they
      were understood: for the user, once (`notes.warn`).
  """

  class_names: tuple[str, ...]
  padding: int = 0
  notes: tuple[str, ...] = ()

  def __repr__(self) -> str:
    return f"{type(self).__name__}({shown(self.name)})"

  # Not plain properties, so that who likes may set them.
  @functools.cached_property
  def name(self) -> str:
    """What messages call it. Different sources may have one name."""
    return self.identity

  @functools.cached_property
  def identity(self) -> str:
    """Names what a model gets to see, wherever the files lie.

    Equal identities mean equal records, in every process and on every machine.
    The first look may read all files (`content`).
    """
    if not self.padding:
      return self.content()
    return f"{self.content()} padded {self.padding}"

  @property
  def earlier_identity(self) -> str:
    """What versions called it that framed all images of 28 px by 2 pixels.

    Equal to theirs only where the same pixels come of it.
    """
    shape = self.image_shape
    framed = shape is not None and min(shape[:2]) == _EARLIER_SIDE
    content = self.identity.removesuffix(f" padded {self.padding}")
    if self.padding == (_EARLIER_PADDING if framed else 0):
      return content
    return f"{content} padded {self.padding}"

  @functools.cached_property
  def outline(self) -> str:
    """What can be told without reading all files.

    Processes that read the same data have equal outlines; they are compared at
    the start of a run, where one process alone looks at the identity.
    """
    return self.identity

  def content(self) -> str:
    """Names all records of the split by what they hold, padding apart.

    Every source has this method, or an `identity` of its own.
    """
    raise NotImplementedError(f"{type(self).__name__} has no content")

  @property
  def num_classes(self) -> int:
    """How many labels there are; 0 in an unlabelled source."""
    return len(self.class_names)

  @property
  def file_records(self) -> tuple[int, ...]:
    """Records in each file, by index; one number where files do not matter."""
    return (len(self),)

  @property
  def decodes(self) -> bool:
    """Whether reading takes work that threads can share: decoding."""
    return True

  @property
  def several_labels(self) -> bool:
    """Whether a record may carry more labels than the first."""
    return False

  @property
  def counts_quickly(self) -> bool:
    """Whether `label_counts` reads few records, at most `FEW_RECORDS`."""
    return len(self) <= FEW_RECORDS

  def padding_of(self, index: int) -> int:
    """The `padding` of one record: in a mixture that of its own source."""
    del index
    return self.padding

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """Height, width and channels where all images share them, else None."""
    return None

  def shape(self, index: int) -> tuple[int, int, int]:
    """Returns a record's height, width and channels; reads as little as it can.

    Raises:
      BadRecordError: the record cannot be used.
    """
    return self.image_shape or self.read(index).image.shape

  def where(self, index: int) -> str:
    """Returns the name of the file that holds a record, for messages."""
    return f"record {index} of {self.identity}"

  def check(self) -> tuple[MissingFile, ...]:
    """Looks, fast, for files that are missing or are not what they were."""
    return ()

  @abc.abstractmethod
  def read(self, index: int) -> Record:
    """Reads a record, `index` in [0, len(self)).

    Raises:
      BadRecordError: it cannot be used.
    """

  @abc.abstractmethod
  def labels(self) -> np.ndarray:
    """First label of every record: [len(self)] int32, 0 where unlabelled.

    May read the whole source.
    """

  def labels_of(self, index: int) -> tuple[int, ...]:
    """Returns all labels of a record; reads as little as it can.

    Raises:
      BadRecordError: the record cannot be used.
    """
    return self.read(index).labels

  def label_counts(self) -> np.ndarray:
    """Returns how many records each class has: [num_classes] float64.

    A record of several labels counts an equal part for each. May read the
    whole source; records that cannot be read count for none.
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
    """Returns the classes that no record carries.

    Returns:
      None where more than `FEW_RECORDS` would have to be read for it.
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
    index: of the record.
    reason: what is wrong, to be read after "it".
    where: the file that holds it, for who mends it.
  """

  def __init__(self, source: str, index: int, reason: str, where: str) -> None:
    """See the attributes."""
    super().__init__(
      f"record {index} of {source} ({where}) cannot be used: {reason}; mend "
      "it, or set data.bad_records='skip'"
    )
    self.source = source
    self.index = index
    self.reason = reason
    self.where = where

  def __reduce__(self) -> tuple[type, tuple[str, int, str, str]]:
    # Workers send it to who asked them.
    return type(self), (self.source, self.index, self.reason, self.where)


def padding_of(source: Source, index: int = 0) -> int:
  """The padding of a record; 0 of a source by others that knows of none."""
  known = getattr(source, "padding_of", None)
  return known(index) if known else 0
