"""A `Place` in a folder on this machine's disk."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from bigscale import temporary
from bigscale.place.base import ChangedError, Entry, checked

# Errors that say that there is no file of this name.
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Some file systems (FAT, some network mounts) have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class DiskPlace:
  """See `Place`.

  Files are complete when they appear: they are written under a temporary name,
  which is not listed, and then renamed or linked.
  """

  def __init__(self, root: pathlib.Path) -> None:
    self.root = root
    self.url = os.fspath(root)

  def __repr__(self) -> str:
    return f"DiskPlace({self.url!r})"

  def list(self, prefix: str = "") -> list[Entry]:
    """See `Place`."""
    top = prefix.rpartition("/")[0]
    names = self._walk(f"{top}/" if top else "", frozenset())
    found = (self.entry(name) for name in names if name.startswith(prefix))
    return sorted(entry for entry in found if entry is not None)

  def _walk(self, folder: str, above: frozenset) -> Iterator[str]:
    """Yields the files below a folder; `above` are the folders it is in."""
    try:
      found = (self.root / folder).stat()
      entries = [*os.scandir(self.root / folder)]
    except _ABSENT:  # Another process removed it.
      return
    own = (found.st_dev, found.st_ino)
    if own in above:  # A link to a folder that contains it.
      return
    for entry in entries:
      if entry.is_dir():
        yield from self._walk(f"{folder}{entry.name}/", above | {own})
      elif not temporary.is_partial(entry.name):
        yield f"{folder}{entry.name}"

  def any(self, prefix: str = "") -> bool:
    """See `Place`."""
    top = prefix.rpartition("/")[0]
    names = self._walk(f"{top}/" if top else "", frozenset())
    return any(name.startswith(prefix) for name in names)

  def entry(self, name: str) -> Entry | None:
    """See `Place`."""
    path = self._path(name)
    try:
      found = path.stat()
    except _ABSENT:
      return None
    if not path.is_file():
      return None
    return Entry(name, found.st_size, str(found.st_mtime_ns))

  def read(self, name: str, version: str = "") -> bytes:
    """See `Place`."""
    return self.read_range(name, 0, -1, version)

  def read_range(
    self, name: str, start: int, stop: int, version: str = ""
  ) -> bytes:
    """See `Place`."""
    path = self._path(name)
    try:
      with path.open("rb") as file:
        # Writes replace the file, so an open one does not change.
        if version and str(os.fstat(file.fileno()).st_mtime_ns) != version:
          raise ChangedError(f"{path} has changed since it was looked up")
        file.seek(start)
        return file.read(max(0, stop - start)) if stop >= 0 else file.read()
    except _ABSENT as error:
      raise FileNotFoundError(
        errno.ENOENT, "no such file", str(path)
      ) from error

  def write(self, name: str, data: bytes) -> None:
    """See `Place`."""
    path = self._path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.replacing(path) as partial:
      partial.write_bytes(data)

  def create(self, name: str, data: bytes) -> bool:
    """See `Place`."""
    path = self._path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      return False
    partial = temporary.beside(path)
    try:
      with partial.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      return _link(partial, path, data)
    finally:
      partial.unlink(missing_ok=True)

  def delete(self, name: str) -> None:
    """See `Place`."""
    with contextlib.suppress(*_ABSENT):
      self._path(name).unlink()

  def folder(self, name: str) -> "DiskPlace":
    """See `Place`."""
    return DiskPlace(self._path(name))

  def _path(self, name: str) -> pathlib.Path:
    return self.root / checked(name)


def _link(partial: pathlib.Path, path: pathlib.Path, data: bytes) -> bool:
  """Gives a complete file its name; False if another file has it."""
  try:
    os.link(partial, path)
  except FileExistsError:
    return False
  except OSError as error:
    if error.errno not in _NO_LINKS:
      raise
    # A reader may see this file before it is complete.
    try:
      with path.open("xb") as file:
        file.write(data)
    except FileExistsError:
      return False
  return True
