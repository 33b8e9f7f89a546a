"""Reads data sets prepared by TensorFlow Datasets, without TensorFlow.

Only their files are read. The code that made them is not run, and nothing is
downloaded. They must be in the ArrayRecord format, the only one with random
access.

The `as_data_source` of TFDS uses ArrayRecord's list reads. Their cost grows
with the number of records in the file: a millisecond in a file of 200,000.
Here, a record is read as the range [i, i+1), and only its image and label are
parsed.
"""

import collections
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import content, images, tfds_info
from bigscale.data.manifest import DataError, Split
from bigscale.data.sources import BadRecordError, MissingFile, Record, Source
from bigscale.data.splits import check_index, check_split, number_names

MAX_OPEN_FILES = 256

# Read-ahead only costs time in random access.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_LABELS_AT_ONCE = 1024


class _File(NamedTuple):
  """A split's records [first, first + records) in one ArrayRecord file."""

  path: str
  first: int
  records: int


class TfdsSource(Source):
  """A split of a prepared TFDS data set.

  `heldout` is the set's `validation`, or its `test`, or the last 5% of its
  `train`, which are then removed from `train`. Image and label are those of
  `as_supervised`, or else the only `Image` (or uint8 `Tensor` of rank 3) and
  `ClassLabel`. A set without a `ClassLabel` is unlabeled. The identity covers
  the name, version, split, number of records, and the bytes of the files
  (`content`).

  Args:
    name: name as in `tfds.builder`: `mnist`, `cifar10:3.0.2`,
      `ds/config:1.0.0`; `name@/data_dir` if it is not in
      `~/tensorflow_datasets`.
    split: `train` or `heldout`.

  Raises:
    DataError: the set is not prepared in that format, or it is unclear which
      feature is the image or the label.
  """

  def __init__(self, name: str, split: Split = "train") -> None:
    check_split(split)
    self._name = name
    info = tfds_info.open_info(name)
    self._image, label = tfds_info.choose_features(info, name)
    self._label = label
    self.class_names: tuple[str, ...] = ()
    if label is not None:
      feature = info.features[label]
      self.class_names = tuple(
        feature.names or number_names(feature.num_classes)
      )
    own = tfds_info.choose_split(info, split, name)
    self.notes = tfds_info.notes_on(info, name)
    self._files = tuple(
      _File(each.filename, each.skip, each.take)
      for each in info.splits[own].file_instructions
    )
    counts = [file.records for file in self._files]
    self._ends = np.cumsum(counts, dtype=np.int64)
    if not sum(counts):
      raise DataError(
        f"the {own} split of TFDS set {name!r} is empty; prepare it again"
      )
    whole = info.splits[own.partition("[")[0]]
    outline = [counts, whole.num_bytes, self.class_names]
    self._digest = hashlib.sha256(json.dumps(outline).encode()).digest()
    self.name = f"{info.full_name}/{own}"
    self._start(info)

  @functools.cached_property
  def outline(self) -> str:
    """See `Source`: sizes of everything listed in the set's description."""
    return f"{self.name}@{self._digest.hex()[:16]} padded {self.padding}"

  def content(self) -> str:
    """See `Source`."""
    paths = [file.path for file in self._files]
    sizes = np.array([_size(path) for path in paths])
    read = content.of_files("", paths, sizes, self.name)
    digest = hashlib.sha256(self._digest + read.digest).hexdigest()
    return f"{self.name}@{digest[:16]}{read.note}"

  def _start(self, info: Any) -> None:
    from tensorflow_datasets import decode, features

    wanted = {
      key: info.features[key] for key in (self._image, self._label) if key
    }
    self._both = features.FeaturesDict(wanted)
    self._decoders = {}
    if isinstance(wanted[self._image], features.Image):
      self._decoders[self._image] = decode.SkipDecoding()
    wanted.pop(self._image)
    self._label_alone = features.FeaturesDict(wanted)
    # Ordered from the least to the most recently read file.
    self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    recreated = ("_readers", "_lock", "_both", "_label_alone", "_decoders")
    return {k: v for k, v in self.__dict__.items() if k not in recreated}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._start(tfds_info.open_info(self._name))

  def __len__(self) -> int:
    return int(self._ends[-1])

  @property
  def file_records(self) -> tuple[int, ...]:
    """See `Source`."""
    return tuple(file.records for file in self._files)

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`: checks that every file exists."""
    return tuple(
      MissingFile(
        f"{file.path} is missing, but TFDS set {self._name!r} lists it; copy "
        "it again or prepare the set again",
        file.records,
      )
      for file in self._files
      if not os.path.exists(file.path)
    )

  def read(self, index: int) -> Record:
    """See `Source`."""
    image, labels = self._example(index)
    try:
      if isinstance(image, bytes):
        image = images.decode(image)
      if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"its image is {image.dtype} {image.shape}")
      if image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"its image has the shape {image.shape}")
    except ValueError as error:
      raise self._bad(index, error) from error
    return Record(image, labels)

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`. Decodes only the header of an image file."""
    image, _ = self._example(index)
    if not isinstance(image, bytes):
      return self.read(index).image.shape
    try:
      return images.shape_of(image)
    except ValueError as error:
      raise self._bad(index, error) from error

  def read_bytes(self, index: int) -> tuple[bytes, tuple[int, ...]]:
    """Returns a record's encoded image file and its labels.

    The file is b"" if the set stores a `Tensor` instead of an encoded image.

    Raises:
      BadRecordError: the record cannot be read.
    """
    image, labels = self._example(index)
    return (image if isinstance(image, bytes) else b""), labels

  def _example(self, index: int) -> tuple[bytes | np.ndarray, tuple[int, ...]]:
    check_index(index, len(self))
    try:
      file, place = self._place(index)
      record = self._reader(file).read(place, place + 1)[0]
      example = self._both.deserialize_example_np(
        record, decoders=self._decoders
      )
      return example[self._image], self._checked(example)
    # ArrayRecord, protobuf and TFDS raise many types for bad records.
    except Exception as error:
      raise self._bad(index, error) from error

  def labels(self) -> np.ndarray:
    """See `Source`; reads every record, but decodes no image."""
    if self._label is None:
      return np.zeros(len(self), np.int32)
    found = np.zeros(len(self), np.int32)
    for index, label in enumerate(self._all_labels()):
      if label is None:
        raise self._bad(index, ValueError("its label cannot be read"))
      found[index] = label
    return found

  def label_counts(self) -> np.ndarray:
    """See `Source`; records whose labels cannot be read are not counted."""
    counts = np.zeros(self.num_classes)
    for label in self._all_labels() if self.num_classes else ():
      if label is not None and 0 <= label < self.num_classes:
        counts[label] += 1
    return counts

  def _all_labels(self) -> Iterator[int | None]:
    """Yields the labels of all records, in order; None if one is unreadable."""
    for number, file in enumerate(self._files):
      last = file.first + file.records
      for start in range(file.first, last, _LABELS_AT_ONCE):
        end = min(start + _LABELS_AT_ONCE, last)
        for record in self._reader(number).read(start, end):
          yield self._label_in(record)

  def _label_in(self, record: bytes) -> int | None:
    try:
      example = self._label_alone.deserialize_example_np(record)
      return int(example[self._label])
    except Exception:  # As in `_example`.
      return None

  def empty_classes(self) -> tuple[int, ...] | None:
    """See `Source`; reads labels until it has found every class."""
    missing = set(range(self.num_classes))
    if not (missing and self.counts_quickly):
      return None if missing else ()
    for label in self._all_labels():
      missing.discard(label)
      if not missing:
        break
    return tuple(sorted(missing))

  def _checked(self, example: dict[str, Any]) -> tuple[int, ...]:
    if self._label is None:
      return ()
    label = int(example[self._label])
    if not 0 <= label < self.num_classes:
      raise ValueError(f"its label {label} is not in [0, {self.num_classes})")
    return (label,)

  def _place(self, index: int) -> tuple[int, int]:
    """Returns the number of a record's file, and the record's index in it."""
    number = int(np.searchsorted(self._ends, index, side="right"))
    file = self._files[number]
    before = int(self._ends[number]) - file.records
    return number, file.first + index - before

  def _reader(self, number: int) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    with self._lock:
      if number in self._readers:
        self._readers.move_to_end(number)
        return self._readers[number]
    # Outside the lock, so other threads continue. Two may open the same file.
    path = os.fsencode(self._files[number].path)
    reader = ArrayRecordReader(path, _READER_OPTIONS)
    with self._lock:
      reader = self._readers.setdefault(number, reader)
      while len(self._readers) > MAX_OPEN_FILES:
        # Threads that still read from it keep it alive, and it closes after.
        self._readers.popitem(last=False)
    return reader

  def _bad(self, index: int, error: Exception) -> BadRecordError:
    number, place = self._place(index)
    where = f"{place} of {self._files[number].path}"
    return BadRecordError(self.name, index, str(error), where)


def _size(path: str) -> int:
  """Returns a file's size in bytes; 0 if missing, which `check` reports."""
  try:
    return os.path.getsize(path)
  except OSError:
    return 0
