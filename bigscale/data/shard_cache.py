"""Copies of a bucket's shards on this machine's disk.

ArrayRecord reads single records of gs:// by requests that go to the end of the
object, and cannot read s3://. Shards are therefore copied whole, and the copies
are read. The manifest's SHA-256 digest of a shard is the name of its copy, so
that a copy is never that of other data, and all runs and processes of a machine
share it. The copies that were not used for longest are removed first.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bigscale import cache_folder, temporary
from bigscale.data.manifest import DataError, ShardFile
from bigscale.place import Place, StoreError, open_place

# Share of the free disk that copies may take by default.
_SHARE = 0.5
_THREADS = 8
_BLOCK = 1 << 24
# The first attempt may read an object while it is replaced.
_ATTEMPTS = 2
_GB = 1e9


class ShardCache:
  """Local copies of the shards of one directory; picklable and thread-safe.

  Attributes:
    limit: bytes that all copies on this machine may take together.
  """

  def __init__(self, directory: str, limit_gb: float = 0.0) -> None:
    """Sets the limit.

    Args:
      directory: address of the directory.
      limit_gb: limit in GB; 0 uses half of the free disk, in which copies of
        earlier runs count as free.
    """
    self._directory = directory
    self._folder = os.path.join(cache_folder.directory(), "shards")
    self.limit = int(limit_gb * _GB) or self._default_limit()
    self._start()

  def _default_limit(self) -> int:
    _make_folder(self._folder)
    held = sum(size for _, size, _ in self._copies())
    return int(_SHARE * (shutil.disk_usage(self._folder).free + held))

  def _start(self) -> None:
    self._lock = threading.Lock()
    self._wanted: frozenset[str] = frozenset()
    self._pool: ThreadPoolExecutor | None = None

  def __getstate__(self) -> dict[str, object]:
    state = self.__dict__.copy()
    for name in ("_lock", "_pool", "_wanted"):
      del state[name]
    return state

  def __setstate__(self, state: dict[str, object]) -> None:
    self.__dict__.update(state)
    self._start()

  def check_room(self, shards: Sequence[ShardFile], together: int) -> None:
    """Checks that the shards that are read at the same time fit the limit.

    Raises:
      DataError: they do not fit.
    """
    sizes = sorted((shard.bytes for shard in shards), reverse=True)
    needed = sum(sizes[:together])
    if needed <= self.limit:
      return
    fits = sum(total <= self.limit for total in itertools.accumulate(sizes))
    raise DataError(
      f"{self._directory}: {together} shards are shuffled together, and their "
      f"copies need {needed / _GB:.3g} GB of {self._folder}, but may take "
      f"{self.limit / _GB:.3g} GB; set data.shuffle_files={fits or 1}, free "
      "disk space, or raise data.cache_gb"
    )

  def fetch_ahead(
    self, present: Sequence[ShardFile], following: Sequence[ShardFile]
  ) -> None:
    """Starts to copy shards that will be read.

    Args:
      present: shards that are being read, which are not removed.
      following: shards that are read after them, copied as far as they fit.
    """
    room = self.limit - sum(shard.bytes for shard in present)
    shards = list(present)
    for shard in following:
      room -= shard.bytes
      if room < 0:
        break
      shards.append(shard)
    with self._lock:
      wanted = frozenset(shard.sha256 for shard in shards)
      new = [shard for shard in shards if shard.sha256 not in self._wanted]
      self._wanted = wanted
      if new and self._pool is None:
        self._pool = ThreadPoolExecutor(
          _THREADS, thread_name_prefix="bigscale-shards"
        )
      for shard in new:
        self._pool.submit(self._fetch_quietly, shard)

  def _fetch_quietly(self, shard: ShardFile) -> None:
    # The thread that reads the shard tries again, and raises the error.
    with contextlib.suppress(Exception):
      self.fetch(shard)

  def fetch(self, shard: ShardFile) -> str:
    """Returns the path of a shard's copy, made now if there is none.

    Raises:
      DataError: the object does not exist, or differs from the manifest.
      StoreError: the store fails, or the disk is full.
    """
    path = os.path.join(self._folder, f"{shard.sha256}.array_record")
    if self._touch(path, shard):
      return path
    _make_folder(self._folder)
    # One process copies a shard, and the others wait for it.
    with _locked(f"{path}.lock"):
      if not self._touch(path, shard):
        self._make_room(shard.bytes)
        with temporary.replacing(path) as partial:
          download(open_place(self._directory), shard, os.fspath(partial))
    return path

  def _touch(self, path: str, shard: ShardFile) -> bool:
    """Marks a copy as used now; False if there is none."""
    try:
      if os.path.getsize(path) != shard.bytes:
        return False
      os.utime(path)
    except OSError:
      return False
    return True

  def _copies(self) -> Iterator[tuple[float, int, str]]:
    """Yields the time of use, the size and the path of each copy."""
    with contextlib.suppress(FileNotFoundError):
      for entry in os.scandir(self._folder):
        with contextlib.suppress(OSError):
          if entry.name.endswith(".array_record"):
            found = entry.stat()
            yield found.st_mtime, found.st_size, entry.path

  def _make_room(self, size: int) -> None:
    """Removes the copies that were not used for longest."""
    copies = sorted(self._copies())
    held = sum(copy[1] for copy in copies)
    for _, freed, path in copies:
      if held + size <= self.limit:
        return
      if os.path.basename(path).partition(".")[0] not in self._wanted:
        # An open copy can still be read after it is removed.
        with contextlib.suppress(OSError):
          os.remove(path)
          os.remove(f"{path}.lock")
        held -= freed


def _make_folder(folder: str) -> None:
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise StoreError(
      f"{folder} cannot be created ({error.strerror}), but copies of shards "
      f"need it; set {cache_folder.ENVIRONMENT} to a writable folder"
    ) from error


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
  """Holds a lock that other processes and threads wait for."""
  with open(path, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def download(place: Place, shard: ShardFile, path: str) -> None:
  """Copies a shard to a local path, and compares it with its manifest.

  Raises:
    DataError: the object does not exist, or differs from the manifest.
    StoreError: the store fails, or the disk is full.
  """
  for _ in range(_ATTEMPTS):
    digest, size = hashlib.sha256(), 0
    try:
      with open(path, "wb") as file:
        while size < shard.bytes:
          data = place.read_range(
            shard.file, size, min(size + _BLOCK, shard.bytes + 1)
          )
          if not data:
            break
          file.write(data)
          digest.update(data)
          size += len(data)
    except FileNotFoundError as error:
      raise DataError(
        f"shard {place.url}/{shard.file} does not exist, but the manifest "
        "lists it; copy it again or build the set again"
      ) from error
    except StoreError:
      raise
    except OSError as error:
      full = error.errno in (errno.ENOSPC, errno.EDQUOT)
      remedy = (
        "free disk space, lower data.cache_gb or data.shuffle_files, or set "
        f"{cache_folder.ENVIRONMENT} to a folder on a larger disk"
      )
      raise StoreError(
        f"{path} cannot be written ({error.strerror or error}); "
        f"{remedy if full else 'check the disk'}"
      ) from error
    if (size, digest.hexdigest()) == (shard.bytes, shard.sha256):
      return
  raise DataError(
    f"shard {place.url}/{shard.file} is not the one in the manifest: it has "
    f"{size} bytes and the SHA-256 digest {digest.hexdigest()[:16]}..., not "
    f"{shard.bytes} and {shard.sha256[:16]}...; copy it again or build the set "
    "again"
  )


@contextlib.contextmanager
def local_copy(directory: str, shard: ShardFile) -> Iterator[str]:
  """Yields the path of a new copy of a shard, which is removed at the end.

  Raises:
    DataError: the object does not exist, or differs from the manifest.
    StoreError: the store fails, or the disk is full.
  """
  folder = cache_folder.directory()
  _make_folder(folder)
  with tempfile.TemporaryDirectory(dir=folder, suffix=".partial") as name:
    path = os.path.join(name, shard.file)
    download(open_place(directory), shard, path)
    yield path
