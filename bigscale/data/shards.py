"""Sources in ArrayRecord shards with a manifest.

A record is read as the range [i, i+1). Reading it with ArrayRecord's list
argument would walk every chunk of the file, which is 200 times slower in a
shard of 300,000 records.

An open shard keeps an index in memory: 14 bytes per record if each record is a
chunk. Shards are opened when first read. Above `MAX_OPEN_RECORDS` records, or
450 MB, the least recently read shards are closed. Reading orders should not
jump between more shards than fit (see `order`).
"""

import bisect
import collections
import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.data import manifest as manifests
from bigscale.data import records
from bigscale.data.manifest import (
  DataError,
  EmptySplitError,
  Manifest,
  Schema,
  ShardFile,
)
from bigscale.data.places import is_remote
from bigscale.data.shard_cache import ShardCache
from bigscale.data.sources import (
  BadRecordError,
  MissingFile,
  Record,
  Source,
)
from bigscale.data.splits import check_index
from bigscale.place import open_place

MAX_OPEN_RECORDS = 32_000_000

# Read-ahead only costs time in random access.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_LABELS_AT_ONCE = 4096
_OPEN_ATTEMPTS = 3


class ShardSource(Source):
  """A split in ArrayRecord shards, described by a manifest."""

  def __init__(
    self,
    directory: str,
    split: manifests.Split,
    max_open_records: int = MAX_OPEN_RECORDS,
    cache_gb: float = 0.0,
  ) -> None:
    self._directory = directory
    self._cache = (
      ShardCache(directory, cache_gb) if is_remote(directory) else None
    )
    self._manifest: Manifest = manifests.load(directory)
    self._shards = self._manifest.of(split)
    self._split = split
    self.class_names = self._manifest.class_names
    self.padding = self._manifest.padding
    self.name = self._manifest.identity(split)
    self._made = self._manifest.made.get("splits", {}).get(split, {})
    self._max_open = max_open_records
    if not self._shards:
      raise EmptySplitError(
        f"{directory} has no {split} split: its manifest lists none of its "
        "shards; build the set with this split"
      )
    counts = [shard.records for shard in self._shards]
    self._offsets = [0, *itertools.accumulate(counts)]
    self._start_readers()

  def _start_readers(self) -> None:
    # Ordered from the least to the most recently read shard.
    self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    unpicklable = ("_readers", "_lock")
    return {k: v for k, v in self.__dict__.items() if k not in unpicklable}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._start_readers()

  def __len__(self) -> int:
    return self._offsets[-1]

  def content(self) -> str:
    """See `Source`."""
    return self.name

  @property
  def file_records(self) -> tuple[int, ...]:
    """See `Source`."""
    return tuple(shard.records for shard in self._shards)

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return self._manifest.schema.encoding != "raw"

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See `Source`: records of another shape cannot be used."""
    return tuple(self._manifest.schema.image_shape)

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`."""
    found = []
    sizes = None if self._cache is None else remote_sizes(self._directory)
    for shard in self._shards:
      try:
        check_size(self._directory, shard, sizes)
      except DataError as error:
        found.append(MissingFile(str(error), shard.records))
    return tuple(found)

  def read(self, index: int) -> Record:
    """See `Source`."""
    return Record(*self._decoded(index, records.decode))

  def _decoded(
    self,
    index: int,
    decode: Callable[[bytes, Schema], tuple[Any, tuple[int, ...]]],
  ) -> tuple[Any, tuple[int, ...]]:
    check_index(index, len(self))
    shard = bisect.bisect_right(self._offsets, index) - 1
    record = index - self._offsets[shard]
    classes = len(self.class_names)
    limit = max(1, classes)
    try:
      data = self._reader(shard).read(record, record + 1)[0]
      image, labels = decode(data, self._manifest.schema)
      if min(labels) < 0 or max(labels) >= limit:
        raise ValueError(f"its labels {labels} are not all in [0, {limit})")
    except (ValueError, RuntimeError, IndexError, DataError) as error:
      where = f"{record} of {self._path(shard)}"
      raise BadRecordError(self.name, index, str(error), where) from error
    return image, labels if classes else ()

  def labels_of(self, index: int) -> tuple[int, ...]:
    """See `Source`: does not decode the image."""
    return self._decoded(
      index, lambda row, schema: records.decode_labels(row, schema)[::-1]
    )[1]

  def labels(self) -> np.ndarray:
    """See `Source`."""
    schema = self._manifest.schema
    found = np.zeros(len(self), np.int32)
    for index, row in enumerate(self._rows()):
      try:
        found[index] = records.decode_labels(row, schema)[0][0]
      except ValueError as error:
        raise BadRecordError(
          self.name, index, str(error), self._directory
        ) from error
    return found

  @property
  def several_labels(self) -> bool:
    """See `Source`."""
    return self._manifest.schema.multilabel

  @property
  def counts_quickly(self) -> bool:
    """See `Source`: the build may have counted the labels."""
    return self._counted or super().counts_quickly

  def label_counts(self) -> np.ndarray:
    """See `Source`; records whose labels cannot be read are not counted."""
    if self._counted:
      return np.array(self._made["label_counts"], np.float64)
    counts = np.zeros(self.num_classes)
    for row in self._rows() if self.num_classes else ():
      with contextlib.suppress(ValueError, IndexError):
        labels, _ = records.decode_labels(row, self._manifest.schema)
        np.add.at(counts, list(labels), 1 / len(labels))
    return counts

  @property
  def _counted(self) -> bool:
    """Whether the manifest counts labels, and records have one label each."""
    known = self._made.get("label_counts", ())
    return len(known) == self.num_classes and sum(known) == len(self)

  def _rows(self) -> Iterator[bytes]:
    """Yields all encoded records, in order."""
    for shard in range(len(self._shards)):
      for start in range(0, self._shards[shard].records, _LABELS_AT_ONCE):
        end = min(start + _LABELS_AT_ONCE, self._shards[shard].records)
        yield from self._reader(shard).read(start, end)

  def check_room(self, together: int) -> None:
    """See `Source`: copies of the shards of a bucket must fit the disk."""
    if self._cache is not None:
      self._cache.check_room(self._shards, min(together, len(self._shards)))

  def fetch_ahead(
    self, present: Sequence[int], following: Sequence[int]
  ) -> None:
    """See `Source`."""
    if self._cache is not None:
      shards = self._shards
      self._cache.fetch_ahead(
        [shards[number] for number in present],
        [shards[number] for number in following],
      )

  def _open(self, shard: ShardFile) -> Any:
    if self._cache is None:
      return open_shard(self._directory, shard)
    for attempt in range(_OPEN_ATTEMPTS):
      copy = self._cache.fetch(shard)
      try:
        return open_shard(self._directory, shard, copy)
      except DataError:
        # Another process may have removed the copy.
        if os.path.exists(copy) or attempt == _OPEN_ATTEMPTS - 1:
          raise
    raise AssertionError

  def _path(self, shard: int) -> str:
    return os.path.join(self._directory, self._shards[shard].file)

  def _reader(self, shard: int) -> Any:
    with self._lock:
      if shard in self._readers:
        self._readers.move_to_end(shard)
        return self._readers[shard]
    # Outside the lock, so other threads continue. Two may open the same shard.
    reader = self._open(self._shards[shard])
    with self._lock:
      self._readers.setdefault(shard, reader)
      held = sum(self._shards[i].records for i in self._readers)
      while held > self._max_open and len(self._readers) > 1:
        # Threads that still read from it keep it alive, and it closes after.
        oldest, _ = self._readers.popitem(last=False)
        held -= self._shards[oldest].records
      return reader


def remote_sizes(directory: str) -> dict[str, int]:
  """Returns the size of each object of a directory in a bucket, in bytes."""
  return {entry.name: entry.size for entry in open_place(directory).list()}


def check_size(
  directory: str, shard: ShardFile, sizes: Mapping[str, int] | None = None
) -> None:
  """Raises `DataError` if a shard is missing or its size is wrong.

  Args:
    directory: the shard's directory.
    shard: entry of the manifest.
    sizes: sizes of the files of a remote directory.
  """
  path = os.path.join(directory, shard.file)
  try:
    if sizes is None:
      size = os.stat(path).st_size
    elif shard.file in sizes:
      size = sizes[shard.file]
    else:
      raise FileNotFoundError(errno.ENOENT, "it does not exist")
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


def open_shard(directory: str, shard: ShardFile, copy: str = "") -> Any:
  """Opens an `ArrayRecordReader`, and compares the shard with its manifest.

  Args:
    directory: the shard's directory.
    shard: entry of the manifest.
    copy: path of a verified copy of a remote shard, which is opened instead.

  Raises:
    DataError: the shard cannot be opened, or its size or record count differs.
  """
  from array_record.python.array_record_module import ArrayRecordReader

  path = os.path.join(directory, shard.file)
  if not copy:
    check_size(directory, shard)
  try:
    reader = ArrayRecordReader(os.fsencode(copy or path), _READER_OPTIONS)
    records = reader.num_records()
  except (ValueError, RuntimeError) as error:
    raise DataError(
      f"shard {path} is not a readable ArrayRecord file ({error}); copy it "
      "again or build the set again"
    ) from error
  if records != shard.records:
    raise DataError(
      f"shard {path} contains {records} records, but the manifest says "
      f"{shard.records}; build the set again"
    )
  return reader
