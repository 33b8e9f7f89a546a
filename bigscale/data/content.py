"""Digests of file contents, from which source identities are computed.

All bytes are read if there are at most `MOST_FILES` files with at most
`MOST_BYTES` in total. In larger trees, a hash of the file names selects 4,096
files, and at most a megabyte of each is read. Identities also cover the names
and sizes of all files. Re-encoding a tree of any size therefore changes its
identity, and changing a thousandth of the files does so with a probability of
98%. Modification times are not covered, so a copy has the same identity.

Digests are cached in the cache folder by a file's path, size and times. A file
is read again only if one of them changes.
"""

import errno
import hashlib
import logging
import os
import re
import stat
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import IO, NamedTuple

import numpy as np

from bigscale import cache_folder
from bigscale.data.places import RemoteObject, is_remote, open_file
from bigscale.place import StoreError

MOST_BYTES = 32_000_000_000
MOST_FILES = 1_000_000

_SAMPLED = 4096
# Blocks read from a sampled file that is larger than all blocks together.
_BLOCKS, _BLOCK = 16, 1 << 16
_CHUNK_BYTES = 1 << 20
_THREADS = 16
_FILES_AT_ONCE = 64
_NANOSECONDS = 1_000_000_000
# Some file systems store times in units of one or two seconds.
_MARGIN = 5 * _NANOSECONDS
_SIZE = 16  # Bytes of a digest and of a key.

# Digests per cache file, 128 MB.
_MAX_DIGESTS = 4_000_000
# Digests that this process computed, for when the cache cannot be written.
_known: dict[bytes, bytes] = {}
_UNREADABLE = b"unreadable".ljust(_SIZE)
# Reads above these sizes are announced. Reads of more than _LONG seconds are
# timed in the log.
_MUCH_BYTES, _MANY_FILES, _LONG = 2_000_000_000, 50_000, 10.0

_log = logging.getLogger(__name__)


class Content(NamedTuple):
  """Digest of the contents of some files.

  Attributes:
    digest: digest of the files' bytes, in order.
    note: which sample of the files was read; "" if all bytes were read.
  """

  digest: bytes
  note: str


class _FileDigest(NamedTuple):
  """The digest of one file.

  Attributes:
    key: cache key; b"" if the digest must not be cached.
    digest: digest of the file's bytes.
    read: number of bytes read by this call.
    error: reason why the file could not be read, or "".
  """

  key: bytes
  digest: bytes
  read: int
  error: str


class _Digests:
  """Cached digests of the files below one folder.

  The cache file is replaced atomically. A damaged cache file counts as missing.
  If the cache cannot be written, the next process reads the data again. If two
  processes write at once, one loses its digests, but they never mix.
  """

  def __init__(self, root: str) -> None:
    """Reads the cached digests.

    Args:
      root: the folder, or the first file of a list.
    """
    place = root if "://" in root else os.path.realpath(root)
    name = re.sub(r"[^A-Za-z0-9]+", "_", os.path.basename(place))[:40]
    text = place.encode("utf-8", "surrogateescape")
    self._own = hashlib.sha256(text).digest()
    self._path = os.path.join(
      cache_folder.directory(), f"digests-{name}-{self._own.hex()[:16]}.npz"
    )
    self._kept = _load_kept(self._path)

  def key_of(self, path: str, *state: object) -> bytes:
    """Returns the cache key of a digest.

    Args:
      path: path of a file, relative to the folder or absolute.
      *state: values that change when the file changes.
    """
    text = repr((path, *state)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(self._own + text, digest_size=_SIZE).digest()

  def get(self, key: bytes) -> bytes | None:
    """Returns a digest, or None if it is not cached."""
    return self._kept.get(key) or _known.get(key)

  def add(self, found: Mapping[bytes, bytes]) -> None:
    """Adds digests to the cache."""
    if not found:
      return
    if len(_known) + len(found) > _MAX_DIGESTS:
      _known.clear()
    _known.update(found)
    self._kept |= found
    if len(self._kept) > _MAX_DIGESTS:
      self._kept = dict(found)
    _save_kept(self._path, self._kept)


def _load_kept(path: str) -> dict[bytes, bytes]:
  arrays = cache_folder.read(path)
  if arrays is None:
    return {}
  parts = []
  for name in ("keys", "values"):
    array = arrays.get(name, np.empty(0))
    if array.dtype != np.uint8 or array.shape[1:] != (_SIZE,):
      cache_folder.discard(path, f"{name} are {array.dtype} {array.shape}")
      return {}
    data = array.tobytes()
    parts.append([data[i : i + _SIZE] for i in range(0, len(data), _SIZE)])
  return dict(zip(*parts, strict=False))


def _save_kept(path: str, kept: Mapping[bytes, bytes]) -> None:
  keys, values = (
    np.frombuffer(b"".join(part), np.uint8).reshape(-1, _SIZE)
    for part in (kept.keys(), kept.values())
  )
  cache_folder.write(path, {"keys": keys, "values": values})


def of_files(
  root: str,
  paths: Sequence[str],
  sizes: np.ndarray,
  name: str,
  versions: Sequence[str] | None = None,
) -> Content:
  """Computes the digest of the contents of some files.

  An unreadable file gets a fixed digest, and a warning is logged.

  Args:
    root: folder of the files, a path or an address; "" if the paths are
      absolute.
    paths: paths of the files, relative to the root.
    sizes: [N] integers, size of each file in bytes when it was listed.
    name: name of the data set, for messages.
    versions: version of each file of a bucket when it was listed; None looks
      them up.

  Returns:
    The content, a function of the files' bytes. If only a sample is read, it
    also depends on the names and sizes of the files.
  """
  total, whole = int(np.sum(sizes)), True
  rows = range(len(paths))
  if len(paths) > MOST_FILES or total > MOST_BYTES:
    names = paths if root else [os.path.basename(path) for path in paths]
    whole, rows = False, _sample(names)
  kept = _Digests(root or paths[0])
  started, found = time.monotonic(), []
  if (total > _MUCH_BYTES and whole) or len(rows) > _MANY_FILES:
    _log.warning(
      "computing the identity of the data: reading %s files of %s (%.1f GB); "
      "unchanged files that were read before are skipped",
      f"{len(rows):,}",
      name,
      total / 1e9,
    )

  def some(start: int) -> list[_FileDigest]:
    return [
      _digest(root, paths[row], kept, whole, _entry(row, sizes, versions))
      for row in rows[start : start + _FILES_AT_ONCE]
    ]

  starts = range(0, len(rows), _FILES_AT_ONCE)
  if len(starts) == 1:
    found = some(0)
  else:
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      found = [one for each in pool.map(some, starts) for one in each]
  kept.add({one.key: one.digest for one in found if one.key and one.read})
  seconds = time.monotonic() - started
  if seconds > _LONG:
    read = sum(one.read for one in found)
    _log.warning("%s: read %.1f GB in %.0f s", name, read / 1e9, seconds)
  errors = [one.error for one in found if one.error]
  if errors:
    _log.warning(
      "%d files of %s cannot be read (%s); its identity reflects this, and "
      "changes when they become readable",
      len(errors),
      name,
      errors[0],
    )
  digest = hashlib.sha256(b"".join(one.digest for one in found)).digest()
  note = "" if whole else f" by {len(rows)} of {len(paths)} files"
  return Content(digest, note)


def _entry(
  row: int, sizes: np.ndarray, versions: Sequence[str] | None
) -> tuple[int, str] | None:
  """Returns the size and version of a file of a bucket, if they are known."""
  return None if versions is None else (int(sizes[row]), versions[row])


def _sample(names: Sequence[str]) -> list[int]:
  """Returns the sorted rows whose names have the smallest hashes."""
  hashes = np.fromiter(
    (
      zlib.crc32(names[row].encode("utf-8", "replace"))
      for row in range(len(names))
    ),
    np.uint32,
    len(names),
  )
  return np.sort(np.argsort(hashes, kind="stable")[:_SAMPLED]).tolist()


def _digest(
  root: str,
  name: str,
  kept: _Digests,
  whole: bool,
  entry: tuple[int, str] | None,
) -> _FileDigest:
  path = os.path.join(root, name)
  try:
    if is_remote(path):
      return _remote_digest(path, name, kept, whole, entry)
    return _local_digest(path, name, kept, whole)
  except StoreError:
    # The store fails, so the content is unknown.
    raise
  except OSError as error:
    reason = f"{path}: {error.strerror or error}"
    return _FileDigest(b"", _UNREADABLE, 0, reason)


def _remote_digest(
  path: str,
  name: str,
  kept: _Digests,
  whole: bool,
  entry: tuple[int, str] | None,
) -> _FileDigest:
  found = RemoteObject(path, entry)
  # A read of this version fails once the object has changed.
  key = kept.key_of(name, found.entry.version, whole)
  known = kept.get(key)
  if known is not None:
    return _FileDigest(key, known, 0, "")
  digest, read = _read(found, found.entry.size, whole)
  return _FileDigest(key, digest, read, "")


def _local_digest(
  path: str, name: str, kept: _Digests, whole: bool
) -> _FileDigest:
  size, *times = _stat(path)
  key = kept.key_of(name, size, *times, whole)
  known = kept.get(key)
  if known is not None:
    return _FileDigest(key, known, 0, "")
  now = time.time_ns()
  digest, read = _read(path, size, whole)
  # Not cached if the file changed while it was read, or so shortly before that
  # another change might leave its time as it is.
  stable = _stat(path) == (size, *times) and max(times) < now - _MARGIN
  return _FileDigest(key if stable and min(times) else b"", digest, read, "")


def _stat(path: str) -> tuple[int, int, int]:
  """Returns a file's size, modification time and change time, in ns."""
  found = os.stat(path)
  if not stat.S_ISREG(found.st_mode):
    # Opening a pipe would block until another process writes to it.
    raise OSError(errno.EINVAL, "it is not a regular file")
  return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(
  path: str | RemoteObject, size: int, whole: bool
) -> tuple[bytes, int]:
  """Returns the digest of a file, and the number of bytes read for it."""
  # SHA-256, because processors have instructions for it.
  digest, read = hashlib.sha256(), 0
  with _open(path) as file:
    if whole or size <= _BLOCKS * _BLOCK:
      while data := file.read(_CHUNK_BYTES):
        digest.update(data)
        read += len(data)
    else:
      for block in range(_BLOCKS):
        file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
        data = file.read(_BLOCK)
        digest.update(data)
        read += len(data)
  return digest.digest()[:_SIZE], read


def _open(path: str | RemoteObject) -> IO[bytes]:
  if isinstance(path, RemoteObject):
    return open_file(path)
  return open(path, "rb", buffering=0)
