"""Paths and remote addresses of data, and access to their files."""

import io
import os
from collections.abc import Callable
from typing import IO, Any, TypeVar

from bigscale import place
from bigscale.data.manifest import DataError
from bigscale.spec import SpecError

T = TypeVar("T")

is_remote = place.is_remote

_OUT = "copy it to a disk, and use the local path"
# Bytes that a sequential reader of a remote file requests at once.
_BLOCK = 1 << 23


def user_path(source: str) -> str:
  """Returns a source's name without `file://`, with `~` expanded."""
  return os.path.expanduser(local_path(source))


def local_path(path: str) -> str:
  """Returns a path without `file://`."""
  return os.fspath(path).removeprefix("file://")


def kind_of(name: str) -> str:
  """Returns whether a path or address is a `file` or a `folder`; "" if neither.

  Raises:
    DataError: the kind of address is not supported, a package for it is not
      installed, or the disk or the network fails.
  """
  return _reaching(name, lambda: _kind_of(name))


def _kind_of(name: str) -> str:
  if is_remote(name):
    parent, last = place.open_object(name)
    if last and parent.entry(last) is not None:
      return "file"
    return "folder" if place.open_place(name).any() else ""
  if os.path.isdir(name):
    return "folder"
  return "file" if os.path.isfile(name) else ""


def has_file(directory: str, name: str) -> bool:
  """Returns whether a folder has a file of this name; see `kind_of`."""
  if not is_remote(directory):
    return os.path.exists(os.path.join(directory, name))
  return _reaching(
    directory, lambda: place.open_place(directory).entry(name) is not None
  )


def size_of(name: str) -> int | None:
  """Returns the bytes of a remote file or folder; None if there is none."""
  kind = kind_of(name)
  if kind == "file":
    return RemoteObject(name).entry.size
  if kind == "folder":
    return sum(entry.size for entry in place.open_place(name).list())
  return None


def check(name: str) -> None:
  """Checks that a path or address can be accessed; it need not exist.

  Raises:
    DataError: see `kind_of`.
  """
  if is_remote(name):
    folder = place.parent_and_name(name)[0]
    _reaching(name, lambda: place.open_place(folder))
  else:
    _reaching(name, lambda: os.path.lexists(name) and os.stat(name))


def _reaching(name: str, access: Callable[[], T]) -> T:
  """Returns what `access` returns, and turns its errors into `DataError`."""
  try:
    return access()
  except SpecError as error:
    raise DataError(f"data {_short(name)!r}: {error}; or {_OUT}") from error
  except OSError as error:
    remedy = f"check it, or {_OUT}" if is_remote(name) else "check the path"
    reason = error.strerror or error
    raise DataError(
      f"data {_short(name)!r} cannot be accessed ({reason}); {remedy}"
    ) from error


def _short(name: str) -> str:
  return name if len(name) < 200 else f"{name[:100]}...{name[-50:]}"


def open_file(path: "str | RemoteObject") -> IO[bytes]:
  """Opens a file for reading.

  A remote file is read in blocks of 8 MiB, which all are of the version that it
  has now.

  Raises:
    OSError: the file cannot be read.
    DataError: the address is not supported.
  """
  if isinstance(path, str):
    path = local_path(path)
    if not is_remote(path):
      return open(path, "rb")
    path = RemoteObject(path)
  return io.BufferedReader(_RemoteFile(path))


class RemoteObject:
  """An object of a bucket, in the version that it had when it was looked up.

  Picklable and thread-safe.

  Attributes:
    entry: its name, size and version.
  """

  def __init__(
    self, address: str, entry: tuple[int, str] | None = None
  ) -> None:
    """Looks an object up.

    Args:
      address: address of the object.
      entry: its size and version, if they are known.

    Raises:
      FileNotFoundError: there is none.
    """
    self._place, name = place.open_object(address)
    found = place.Entry(name, *entry) if entry else self._place.entry(name)
    if found is None:
      raise FileNotFoundError(2, "there is no such object", address)
    self.entry = found

  def read(self, start: int, stop: int) -> bytes:
    """Returns bytes [start, stop), or fewer at the end; see `Place`."""
    name, size, version = self.entry
    stop = min(stop, size)
    return self._place.read_range(name, start, stop, version)

  def is_same(self) -> bool:
    """Returns whether the object still exists in the same version."""
    return self._place.entry(self.entry.name) == self.entry


class _RemoteFile(io.RawIOBase):
  """A remote object as a file, read in blocks."""

  def __init__(self, found: RemoteObject) -> None:
    super().__init__()
    self._object = found
    self._position = 0
    self._start, self._block = 0, b""

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    """See `io.IOBase`."""
    before = (0, self._position, self._object.entry.size)[whence]
    self._position = max(0, before + offset)
    return self._position

  def tell(self) -> int:
    """See `io.IOBase`."""
    return self._position

  def readinto(self, buffer: Any) -> int:
    """See `io.RawIOBase`."""
    if self._position >= self._object.entry.size:
      return 0
    within = self._position - self._start
    if not 0 <= within < len(self._block):
      self._start, within = self._position, 0
      self._block = self._object.read(self._start, self._start + _BLOCK)
    data = self._block[within : within + len(buffer)]
    buffer[: len(data)] = data
    self._position += len(data)
    return len(data)
