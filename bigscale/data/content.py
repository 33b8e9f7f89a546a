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
import stat
import time
import zlib
from collections.abc import Sequence
from concurrent import futures
from typing import IO, NamedTuple

import numpy as np
from etils import epath

from bigscale.data import digests
from bigscale.data.digests import Digests

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
_UNREADABLE = b"unreadable".ljust(digests.SIZE)
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
  kept = Digests(root or paths[0])
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


def _digest(root: str, name: str, kept: Digests, whole: bool) -> _Told:
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
  if _is_remote(path):
    found = epath.Path(path).stat()
    changed = int((found.mtime or 0) * _NANOSECONDS)
    return found.length, changed, changed
  found = os.stat(path)
  if not stat.S_ISREG(found.st_mode):
    # To open a pipe is to wait for somebody who writes.
    raise OSError(errno.EINVAL, "it is no file")
  return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_remote(path: str) -> bool:
  return "://" in path


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
  return digest.digest()[: digests.SIZE], read


def _open(path: str) -> IO[bytes]:
  if _is_remote(path):
    return epath.Path(path).open("rb")
  return open(path, "rb", buffering=0)
