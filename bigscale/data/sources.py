"""Images with labels, read by index.

Records are read as the range [i, i+1): ArrayRecord's list read walks every
chunk of the file, 200 times slower in a shard of 300,000 records.
"""

import difflib
import os
import threading
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from bigscale.data import manifest as manifests
from bigscale.data.manifest import DataError, Manifest, Shard
from bigscale.data.records import decode_into

EMBEDDED = ("fashion_mnist", "emoji")

_EMBEDDED_DIRECTORY = os.path.join(os.path.dirname(__file__), "embedded")
# Random access gains nothing from read-ahead, and pays for it.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Samples(NamedTuple):
  """What a source reads.

  Attributes:
    images: [N, H, W, C] uint8.
    labels: [N] int32 in [0, num_classes), 0 in an unlabelled source.
  """

  images: np.ndarray
  labels: np.ndarray


class Source(Protocol):
  """One split of a data set. Safe to read from many threads; picklable."""

  @property
  def num_classes(self) -> int:
    """How many labels there are; 0 in an unlabelled source."""

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of label i at i."""

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of every image."""

  @property
  def identity(self) -> str:
    """Names the content: equal identities mean equal records."""

  def __len__(self) -> int: ...

  def read(self, indices: np.ndarray) -> Samples:
    """Reads records.

    Args:
      indices: [N] integers in [0, len(self)), in any order.

    Raises:
      DataError: a record cannot be read.
    """


def open_source(source: str, split: Literal["train", "heldout"]) -> Source:
  """Opens one split of a data set; no shard is opened before it is read.

  Args:
    source: an embedded set (`fashion_mnist`, `emoji`) or a directory that
      holds a `manifest.json`.
    split: `train`, or `heldout` for images never trained on.

  Raises:
    DataError: there is no such set or split, a shard is missing or has
      another size than the manifest says.
  """
  if source in EMBEDDED:
    return ShardSource(os.path.join(_EMBEDDED_DIRECTORY, source), split)
  if not os.path.isdir(source):
    close = difflib.get_close_matches(source, EMBEDDED, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "check the path."
    raise DataError(
      f"data.source={source!r} is neither an embedded set "
      f"({', '.join(EMBEDDED)}) nor a directory with a manifest.json; {hint}"
    )
  return ShardSource(source, split)


class ShardSource:
  """A split in ArrayRecord shards, described by a manifest.

  Readers are opened at the first read of their shard. `identity` and `repr` do
  not change between processes.
  """

  def __init__(self, directory: str, split: manifests.Split) -> None:
    self._directory = directory
    self._split = split
    self._manifest: Manifest = manifests.load(directory)
    self._shards = self._manifest.of(split)
    if not self._shards:
      raise DataError(
        f"{directory} has no {split} split: its manifest lists no such shard; "
        "build the set with one"
      )
    for shard in self._shards:
      check_size(directory, shard)
    counts = [shard.records for shard in self._shards]
    self._offsets = np.cumsum([0, *counts], dtype=np.int64)
    self._start_readers()

  def _start_readers(self) -> None:
    self._readers: list[Any] = [None] * len(self._shards)
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    unpicklable = ("_readers", "_lock")
    return {k: v for k, v in self.__dict__.items() if k not in unpicklable}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._start_readers()

  def __repr__(self) -> str:
    return f"ShardSource({self.identity})"

  def __len__(self) -> int:
    return int(self._offsets[-1])

  @property
  def num_classes(self) -> int:
    """See `Source`."""
    return len(self._manifest.class_names)

  @property
  def class_names(self) -> tuple[str, ...]:
    """See `Source`."""
    return self._manifest.class_names

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return self._manifest.schema.image_shape

  @property
  def identity(self) -> str:
    """See `Source`."""
    return self._manifest.identity(self._split)

  def read(self, indices: np.ndarray) -> Samples:
    """See `Source`."""
    indices = np.asarray(indices, np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(
        f"indices from {indices.min()} to {indices.max()} do not lie in "
        f"[0, {len(self)})"
      )
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    which = np.searchsorted(self._offsets, indices, side="right") - 1
    within = indices - self._offsets[which]
    for row, (shard, record) in enumerate(
      zip(which.tolist(), within.tolist(), strict=True)
    ):
      labels[row] = self._read_one(shard, record, images[row])
    return Samples(images, labels)

  def _read_one(self, shard: int, record: int, out: np.ndarray) -> int:
    reader = self._readers[shard] or self._open(shard)
    try:
      data = reader.read(record, record + 1)[0]
      label = decode_into(data, self._manifest.schema, out)
    except (ValueError, RuntimeError, IndexError) as error:
      raise self._broken(shard, record, str(error)) from error
    if not 0 <= label < max(1, self.num_classes):
      rule = f"its label {label} is not in [0, {max(1, self.num_classes)})"
      raise self._broken(shard, record, rule)
    return label

  def _broken(self, shard: int, record: int, reason: str) -> DataError:
    path = os.path.join(self._directory, self._shards[shard].file)
    return DataError(
      f"record {record} of {path} cannot be used: {reason}; compare the "
      "file's sha256 with the manifest, copy it again or build the set again"
    )

  def _open(self, shard: int) -> Any:
    with self._lock:
      if self._readers[shard] is None:
        self._readers[shard] = open_shard(self._directory, self._shards[shard])
      return self._readers[shard]


def check_size(directory: str, shard: Shard) -> None:
  """Raises `DataError` if a shard is missing or of another size than stated."""
  path = os.path.join(directory, shard.file)
  try:
    size = os.stat(path).st_size
  except OSError as error:
    raise DataError(
      f"shard {path} cannot be read ({error.strerror}), but the manifest "
      "lists it; copy it again or build the set again"
    ) from error
  if size != shard.bytes:
    raise DataError(
      f"shard {path} has {size} bytes, but the manifest says {shard.bytes}: "
      "it was cut short or changed; copy it again or build the set again"
    )


def open_shard(directory: str, shard: Shard) -> Any:
  """An `ArrayRecordReader` of a shard that agrees with its manifest.

  Raises:
    DataError: the shard does not open, or its size or count is another.
  """
  from array_record.python.array_record_module import ArrayRecordReader

  check_size(directory, shard)
  path = os.path.join(directory, shard.file)
  try:
    reader = ArrayRecordReader(path, _READER_OPTIONS)
    records = reader.num_records()
  except (ValueError, RuntimeError) as error:
    raise DataError(
      f"shard {path} is not a readable ArrayRecord file ({error}); copy it "
      "again or build the set again"
    ) from error
  if records != shard.records:
    raise DataError(
      f"shard {path} holds {records} records, but the manifest says "
      f"{shard.records}; build the set again"
    )
  return reader
