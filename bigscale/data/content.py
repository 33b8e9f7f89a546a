"""Digests of the bytes of files, of which identities are made.

Every byte is read where that is affordable: up to `MOST_FILES` files of
`MOST_BYTES` together. Of larger trees 4,096 files are read, chosen by a hash of
their names, and of each of these at most a megabyte. As names and sizes of all
files are part of every identity anyway, a tree that was encoded anew is noticed
at any size, and so is a change of a thousandth of the files, with a probability
of 98%. Times of files are not part of it: a copy is the same data.

Digests are kept in the cache folder, by path, size and times of a file, and not
read again as long as those stay.
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
from etils import epath

from bigscale import cache_folder
from bigscale.data.places import is_remote

MOST_BYTES = 32_000_000_000
MOST_FILES = 1_000_000

_SAMPLED = 4096
# Of a sampled file that is larger than all of them together.
_BLOCKS, _BLOCK = 16, 1 << 16
_PIECE = 1 << 20
_THREADS = 16
_FILES_AT_ONCE = 64
_NANOSECONDS = 1_000_000_000
# Some file systems count in whole seconds, or in two.
_MARGIN = 5 * _NANOSECONDS
_SIZE = 16  # bytes of a digest and of a key

# Of one cache file: 128 MB.
_MOST_KEPT = 4_000_000
# What this process knows, for where the cache cannot be written.
_known: dict[bytes, bytes] = {}
_UNREADABLE = b"unreadable".ljust(_SIZE)
# What takes longer than some seconds is announced, and its time told.
_MUCH_BYTES, _MANY_FILES, _LONG = 2_000_000_000, 50_000, 10.0

_log = logging.getLogger(__name__)


class Content(NamedTuple):
  """What some files hold.

  Attributes:
    digest: of their bytes, in order.
    note: what part of the bytes was read; "" where all of them were.
  """

  digest: bytes
  note: str


class _Told(NamedTuple):
  """The digest of one file.

  Attributes:
    key: by which it is kept; b"" where it must not be.
    digest: of its bytes.
    read: how many were read now.
    error: why it could not be read, or "".
  """

  key: bytes
  digest: bytes
  read: int
  error: str


class _Digests:
  """The digests of files below one folder that the cache folder keeps.

  Its file in the cache appears whole or not at all; one that is damaged counts
  as missing, and where nothing can be written, the next process reads the data
  again. Two processes that write at once lose each other's digests, never mix
  them up.
  """

  def __init__(self, root: str) -> None:
    """Reads what is kept.

    Args:
      root: the folder, or the first of some files.
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
    """Returns what a digest is kept by.

    Args:
      path: of a file, below the folder or whole.
      *state: all that tells whether it has changed.
    """
    text = repr((path, *state)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(self._own + text, digest_size=_SIZE).digest()

  def get(self, key: bytes) -> bytes | None:
    """Returns a digest, or None where it is not kept."""
    return self._kept.get(key) or _known.get(key)

  def add(self, found: Mapping[bytes, bytes]) -> None:
    """Keeps digests by their keys."""
    if not found:
      return
    if len(_known) + len(found) > _MOST_KEPT:
      _known.clear()
    _known.update(found)
    self._kept |= found
    if len(self._kept) > _MOST_KEPT:
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
  root: str, paths: Sequence[str], sizes: np.ndarray, name: str
) -> Content:
  """Computes the digest of the bytes of some files.

  A file that cannot be read counts as such, with a warning.

  Args:
    root: folder of the files; local, or whatever `epath` opens; "" for none.
    paths: of the files, below the root.
    sizes: [N] integers, bytes of each when it was listed.
    name: of the set, for messages.

  Returns:
    The content, a function of the bytes and, where they are too many, of names
    and sizes, too.
  """
  total, whole = int(np.sum(sizes)), True
  rows = range(len(paths))
  if len(paths) > MOST_FILES or total > MOST_BYTES:
    names = paths if root else [os.path.basename(path) for path in paths]
    whole, rows = False, _sample(names)
  kept = _Digests(root or paths[0])
  started, told = time.monotonic(), []
  if (total > _MUCH_BYTES and whole) or len(rows) > _MANY_FILES:
    _log.warning(
      "reading %s files of %s (%.1f GB), to know their content by; those that "
      "were read before and did not change are skipped",
      f"{len(rows):,}",
      name,
      total / 1e9,
    )

  def some(start: int) -> list[_Told]:
    return [
      _digest(root, paths[row], kept, whole)
      for row in rows[start : start + _FILES_AT_ONCE]
    ]

  starts = range(0, len(rows), _FILES_AT_ONCE)
  if len(starts) == 1:
    told = some(0)
  else:
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      told = [one for each in pool.map(some, starts) for one in each]
  kept.add({one.key: one.digest for one in told if one.key and one.read})
  seconds = time.monotonic() - started
  if seconds > _LONG:
    read = sum(one.read for one in told)
    _log.warning("%s: %.1f GB were read in %.0f s", name, read / 1e9, seconds)
  errors = [one.error for one in told if one.error]
  if errors:
    _log.warning(
      "%d files of %s cannot be read (%s); its identity says so, and changes "
      "when they can",
      len(errors),
      name,
      errors[0],
    )
  digest = hashlib.sha256(b"".join(one.digest for one in told)).digest()
  note = "" if whole else f" by {len(rows)} of {len(paths)} files"
  return Content(digest, note)


def _sample(names: Sequence[str]) -> list[int]:
  """Rows whose names have the least hashes, in order."""
  hashes = np.fromiter(
    (
      zlib.crc32(names[row].encode("utf-8", "replace"))
      for row in range(len(names))
    ),
    np.uint32,
    len(names),
  )
  return np.sort(np.argsort(hashes, kind="stable")[:_SAMPLED]).tolist()


def _digest(root: str, name: str, kept: _Digests, whole: bool) -> _Told:
  path = os.path.join(root, name)
  try:
    size, *times = _stat(path)
    key = kept.key_of(name, size, *times, whole)
    found = kept.get(key)
    if found is not None:
      return _Told(key, found, 0, "")
    now = time.time_ns()
    digest, read = _read(path, size, whole)
    # Written while it was read, or so shortly before that it may be written
    # again without another time.
    sound = _stat(path) == (size, *times) and max(times) < now - _MARGIN
    return _Told(key if sound and min(times) else b"", digest, read, "")
  except OSError as error:
    return _Told(b"", _UNREADABLE, 0, f"{path}: {error.strerror or error}")


def _stat(path: str) -> tuple[int, int, int]:
  """Size, and the times of the last change of content and of anything, ns."""
  if is_remote(path):
    found = epath.Path(path).stat()
    changed = int((found.mtime or 0) * _NANOSECONDS)
    return found.length, changed, changed
  found = os.stat(path)
  if not stat.S_ISREG(found.st_mode):
    # To open a pipe is to wait for somebody who writes.
    raise OSError(errno.EINVAL, "it is no file")
  return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str, size: int, whole: bool) -> tuple[bytes, int]:
  """The digest of a file, and how many bytes were read for it."""
  # Processors have instructions for it.
  digest, read = hashlib.sha256(), 0
  with _open(path) as file:
    if whole or size <= _BLOCKS * _BLOCK:
      while data := file.read(_PIECE):
        digest.update(data)
        read += len(data)
    else:
      for block in range(_BLOCKS):
        file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
        data = file.read(_BLOCK)
        digest.update(data)
        read += len(data)
  return digest.digest()[:_SIZE], read


def _open(path: str) -> IO[bytes]:
  if is_remote(path):
    return epath.Path(path).open("rb")
  return open(path, "rb", buffering=0)
