"""Base class of sources of encoded image files, in folders or archives."""

import abc
import functools
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigscale.data import images, pillow
from bigscale.data.content import Content
from bigscale.data.manifest import Split
from bigscale.data.places import RemoteObject, is_remote
from bigscale.data.sources import (
  BadRecordError,
  MissingFile,
  Record,
  Source,
)
from bigscale.data.splits import check_index
from bigscale.place import StoreError

# Extensions of the formats that `images.decode` reads. The decoder itself
# detects formats by content.
IMAGE_EXTENSIONS = (
  ".jpg",
  ".jpeg",
  ".jpe",
  ".jfif",
  ".jif",
  ".pjpeg",
  ".pjp",
  ".png",
  ".webp",
  ".bmp",
  ".gif",
  ".tif",
  ".tiff",
)

# Number of files whose bytes are compared between processes.
_COMPARED_FILES = 16
# The first bytes of larger files are checked before the rest is read.
_LARGE = 1 << 24


class PackedNames:
  """A list of strings stored in two arrays, in a third of a list's memory."""

  def __init__(self, names: Sequence[str]) -> None:
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    self._bytes = b"".join(encoded)

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> str:
    start = self._ends[index - 1] if index else 0
    name = self._bytes[start : self._ends[index]]
    return name.decode("utf-8", "surrogateescape")

  def digest(self) -> bytes:
    """Returns a digest of the names, equal on all machines."""
    ends = self._ends.astype("<i8").tobytes()
    return hashlib.sha256(ends + self._bytes).digest()


class RangeFile:
  """Reads byte ranges of a file.

  Objects are thread-safe and picklable. A local file is opened at the first
  read. A remote file is always read in the version that it had at first.

  Attributes:
    path: path or address of the file.
    size: size in bytes at first.

  Raises:
    OSError: the file cannot be read.
  """

  def __init__(self, path: str) -> None:
    self.path = path
    self._remote = RemoteObject(path) if is_remote(path) else None
    if self._remote is not None:
      self.size = self._remote.entry.size
    else:
      self.size = os.stat(path).st_size
    self._start()

  def _start(self) -> None:
    self._lock = threading.Lock()
    self._file: Any = None

  def __del__(self) -> None:
    if getattr(self, "_file", None) is not None:
      self._file.close()

  def __getstate__(self) -> tuple[str, int, RemoteObject | None]:
    return self.path, self.size, self._remote

  def __setstate__(self, state: tuple[str, int, RemoteObject | None]) -> None:
    self.path, self.size, self._remote = state
    self._start()

  def read(self, offset: int, size: int) -> bytes:
    """Returns bytes [offset, offset + size), or fewer at the end of the file.

    Raises:
      OSError: the file cannot be read.
    """
    if self._remote is not None:
      return self._remote.read(offset, offset + size)
    with self._lock:
      if self._file is None:
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
    # pread takes an offset, so threads and forks share no file position.
    return os.pread(self._file.fileno(), size, offset)

  def find_missing(self, records: int) -> tuple[MissingFile, ...]:
    """Returns the file with its records if it is gone or has changed."""
    try:
      if self._remote is not None:
        same = self._remote.is_same()
        found = "another version" if not same else ""
      else:
        size = os.stat(self.path).st_size
        found = "" if size == self.size else f"{size} bytes"
    except OSError as error:
      reason = error.strerror or error
      message = f"{self.path} cannot be read ({reason}); restore it"
      return (MissingFile(message, records),)
    if not found:
      return ()
    message = (
      f"{self.path} has {found}, but had {self.size} bytes when it was listed; "
      "start again with a file that does not change"
    )
    return (MissingFile(message, records),)


class EncodedSource(Source):
  """One split of encoded image files whose names and labels are known.

  Subclasses implement how a record's file is located and read.

  Args:
    kind: kind of source; the prefix of its identity.
    name: name of the data set, for messages.
    split: `train` or `heldout`.
    class_names: name of each label; () for an unlabeled set.
    labels: labels of all records, concatenated, int32.
    label_ends: [N] int64, end of each record's labels in `labels`; None if
      every record has one label, or none has any.
    outline: digest of everything known without reading the files, such as
      their names and sizes.
  """

  def __init__(
    self,
    kind: str,
    name: str,
    split: Split,
    class_names: tuple[str, ...],
    labels: np.ndarray,
    label_ends: np.ndarray | None,
    outline: bytes,
  ) -> None:
    self.class_names = class_names
    self.name = f"{name}/{split}"
    self._kind = f"{kind}/{split}"
    self._labels = labels
    self._label_ends = label_ends
    digest = hashlib.sha256(json.dumps(class_names).encode() + outline)
    digest.update(labels.astype("<i4").tobytes())
    if label_ends is not None:
      digest.update(label_ends.astype("<i8").tobytes())
    self._digest = digest.digest()

  @functools.cached_property
  def outline(self) -> str:
    """See `Source`: all names, sizes and labels, and bytes of some files."""
    digest = hashlib.sha256(self._digest)
    for place in range(min(_COMPARED_FILES, len(self))):
      try:
        digest.update(self._encoded(place * len(self) // _COMPARED_FILES))
      except StoreError:
        raise
      except (OSError, ValueError):
        digest.update(b"unreadable")
    return f"{self._kind}@{digest.hexdigest()[:16]} padded {self.padding}"

  def content(self) -> str:
    """See `Source`."""
    read = self._read_content()
    digest = hashlib.sha256(self._digest + read.digest).hexdigest()
    return f"{self._kind}@{digest[:16]}{read.note}"

  @abc.abstractmethod
  def _read_content(self) -> Content:
    """Returns the digest of the bytes that `outline` does not cover."""

  @abc.abstractmethod
  def _size(self, index: int) -> int:
    """Returns the size of a record's file when it was listed, in bytes."""

  @abc.abstractmethod
  def _whole(self, index: int) -> bytes:
    """Returns a record's file.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file has changed or is damaged.
    """

  @abc.abstractmethod
  def _first_bytes(self, index: int, size: int) -> bytes:
    """Returns up to the first `size` bytes of a record's file; see `_whole`."""

  def _encoded(self, index: int) -> bytes:
    """Returns a record's file; raises ValueError also if it is too large."""
    size = check_size(self._size(index))
    if size > _LARGE and not pillow.is_start(self._first_bytes(index, 64)):
      raise ValueError(
        f"it has {size:,} bytes, but does not start like an image"
      )
    return self._whole(index)

  @abc.abstractmethod
  def _where(self, index: int) -> str:
    """Returns the name of a record's file."""

  def where(self, index: int) -> str:
    """See `Source`."""
    return self._where(index)

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`: only the header is read."""
    check_index(index, len(self))
    try:
      try:
        start = self._first_bytes(index, images.FIRST_BYTES)
        return images.shape_of(start)
      except ValueError:
        # The header may be longer than FIRST_BYTES.
        return images.shape_of(self._encoded(index))
    except StoreError:
      # The record is good, but its store fails: another record would be wrong.
      raise
    except (OSError, ValueError) as error:
      raise self._bad(index, error) from error

  def read_bytes(self, index: int) -> tuple[bytes, tuple[int, ...]]:
    """Returns a record's encoded image file and its labels.

    Raises:
      BadRecordError: the file cannot be read, or its size has changed.
    """
    check_index(index, len(self))
    try:
      return self._encoded(index), self.labels_of(index)
    except StoreError:
      raise
    except (OSError, ValueError) as error:
      raise self._bad(index, error) from error

  def read(self, index: int) -> Record:
    """See `Source`."""
    data, labels = self.read_bytes(index)
    try:
      return Record(images.decode(data), labels)
    except ValueError as error:
      raise self._bad(index, error) from error

  def labels(self) -> np.ndarray:
    """See `Source`."""
    if not self.class_names:
      return np.zeros(len(self), np.int32)
    if self._label_ends is None:
      return self._labels
    return self._labels[np.concatenate([[0], self._label_ends[:-1]])]

  def label_counts(self) -> np.ndarray:
    """See `Source`."""
    if self._label_ends is None or not self.class_names:
      return super().label_counts()
    sizes = np.diff(self._label_ends, prepend=0)
    parts = np.repeat(1 / np.maximum(sizes, 1), sizes)
    return np.bincount(self._labels, parts, self.num_classes)

  @property
  def several_labels(self) -> bool:
    """See `Source`."""
    return self._label_ends is not None

  @property
  def counts_quickly(self) -> bool:
    """See `Source`: all labels are in memory."""
    return True

  def labels_of(self, index: int) -> tuple[int, ...]:
    """See `Source`: all labels are in memory."""
    if not self.class_names:
      return ()
    if self._label_ends is None:
      return (int(self._labels[index]),)
    start = self._label_ends[index - 1] if index else 0
    return tuple(self._labels[start : self._label_ends[index]].tolist())

  def _bad(self, index: int, error: Exception) -> BadRecordError:
    reason = str(error)
    if isinstance(error, OSError):
      reason = f"its file cannot be read ({error.strerror or error})"
    return BadRecordError(self.name, index, reason, self._where(index))


def check_size(size: int) -> int:
  """Returns `size`, the size of a file, if it is small enough to read.

  Raises:
    ValueError: the file is too large.
  """
  if size > pillow.MOST_BYTES:
    raise ValueError(
      f"it has {size:,} bytes, but only files of at most "
      f"{pillow.MOST_BYTES:,} bytes are read"
    )
  return size


def check_length(data: bytes, size: int) -> bytes:
  """Returns `data`; raises ValueError if its size changed since the listing."""
  if len(data) != size:
    raise ValueError(f"it has {len(data)} bytes, but had {size} when listed")
  return data
