"""The contract of a `Place`."""

from typing import NamedTuple, Protocol

from bigscale.spec import SpecError


class StoreError(OSError):
  """A store did not answer, or kept failing, for as long as retries last."""


class RejectedError(StoreError):
  """A store rejects a request, and would reject it again."""


class RefusedError(StoreError, PermissionError):
  """Credentials are missing, or do not give access."""


class ChangedError(StoreError):
  """A file is not the version that was asked for."""


class Entry(NamedTuple):
  """A file of a place.

  Attributes:
    name: path relative to the place, with `/` between folders.
    size: size in bytes.
    version: changes with every write: the generation (gs://), the ETag (s3://)
      or the modification time in nanoseconds (disk).
  """

  name: str
  size: int
  version: str


class Place(Protocol):
  """A folder on a disk, or the objects of a bucket below a prefix.

  Names are relative paths with `/` between folders. Folders exist only as parts
  of names: a write creates them, and an empty one is not listed. On a disk, a
  name cannot be a file and a folder at the same time.

  All methods are thread-safe. A store's transient errors (timeouts, closed
  connections, cut answers, status 408, 429 and 5xx) are retried with random
  pauses for `patience` seconds (`open_place`).

  Raises of all methods:
    SpecError: a name is empty, absolute or contains `.` or `..`.
    PermissionError: access is denied; by a store, `RefusedError`.
    StoreError: a store kept failing for `patience` seconds, or rejects the
      request (`RejectedError`).
    OSError: the disk fails.

  Attributes:
    url: path or address, for messages and for `open_place`.
  """

  url: str

  def list(self, prefix: str = "") -> list[Entry]:
    """Returns all files, at any depth, whose name starts with `prefix`.

    They are sorted by name. A listing includes what other processes wrote
    before the call. It is empty if there are no files.
    """

  def any(self, prefix: str = "") -> bool:
    """Returns whether there is a file whose name starts with `prefix`."""

  def entry(self, name: str) -> Entry | None:
    """Returns the entry of a file; None if there is none."""

  def read(self, name: str, version: str = "") -> bytes:
    """Returns a whole file.

    Args:
      name: name of the file.
      version: the version to read; "" reads any.

    Raises:
      FileNotFoundError: there is no such file.
      ChangedError: there is one, but not of this version.
    """

  def read_range(
    self, name: str, start: int, stop: int, version: str = ""
  ) -> bytes:
    """Returns the bytes [start, stop) of a file, as far as it has them.

    See `read` for the version and the errors.
    """

  def write(self, name: str, data: bytes) -> None:
    """Writes a whole file atomically, and replaces an earlier one."""

  def create(self, name: str, data: bytes) -> bool:
    """Writes a whole file unless there is one.

    Returns:
      True for exactly one of all processes and threads that create this name.
    """

  def delete(self, name: str) -> None:
    """Deletes a file; does nothing if there is none."""

  def folder(self, name: str) -> "Place":
    """Returns the place of the files below `name`."""


def checked(name: str) -> str:
  """Returns a relative name; raises `SpecError` if it leads elsewhere."""
  parts = name.split("/")
  if "" in parts or "." in parts or ".." in parts or "\0" in name:
    raise SpecError(
      f"{name!r} is not the name of a file in a folder; use a relative path "
      "without '.', '..' and empty parts"
    )
  return name
