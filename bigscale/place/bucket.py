"""A `Place` below a prefix of a bucket."""

import contextlib
import errno
import uuid
from collections.abc import Callable
from typing import TypeVar

from bigscale.place.base import (
  ChangedError,
  Entry,
  RefusedError,
  RejectedError,
  StoreError,
  checked,
)
from bigscale.place.retry import describe, retrying
from bigscale.place.stores import Store

T = TypeVar("T")

# Time limit of one attempt: a floor, and the slowest rate that is accepted.
_SECONDS = 30.0
_BYTES_PER_SECOND = 1e6


class BucketPlace:
  """See `Place`.

  Args:
    make_store: connects to the store; called again in other processes.
    bucket: name of the bucket.
    root: prefix without a trailing slash; "" is the whole bucket.
    patience: seconds from the first failure of a request to its last attempt.
  """

  def __init__(
    self,
    make_store: type[Store],
    bucket: str,
    root: str,
    patience: float,
  ) -> None:
    self._make_store = make_store
    self._bucket = bucket
    self._root = root
    self._patience = patience
    scheme = make_store.scheme
    self.url = f"{scheme}://{bucket}/{root}".rstrip("/")

  def __repr__(self) -> str:
    return f"BucketPlace({self.url!r})"

  def list(self, prefix: str = "") -> list[Entry]:
    """See `Place`."""
    start = self._full("")
    found = self._ask(
      f"listing {self.url}/{prefix}",
      lambda store: store.list(
        self._bucket, start + prefix, None, self._seconds(0)
      ),
    )
    # An empty object whose name ends with "/" stands for a folder.
    return sorted(
      entry._replace(name=entry.name[len(start) :])
      for entry in found
      if not entry.name.endswith("/")
    )

  def any(self, prefix: str = "") -> bool:
    """See `Place`."""
    start = self._full("") + prefix
    found = self._ask(
      f"listing {self.url}",
      lambda store: store.list(self._bucket, start, 1, self._seconds(0)),
    )
    return bool(found)

  def entry(self, name: str) -> Entry | None:
    """See `Place`."""
    full = self._full(checked(name))
    try:
      found = self._ask(
        f"looking up {self.url}/{name}",
        lambda store: store.head(self._bucket, full, self._seconds(0)),
      )
    except FileNotFoundError:
      return None
    return found.entry._replace(name=name)

  def read(self, name: str, version: str = "") -> bytes:
    """See `Place`."""
    return self._get(name, None, version)

  def read_range(
    self, name: str, start: int, stop: int, version: str = ""
  ) -> bytes:
    """See `Place`."""
    bounds = (start, stop)
    return self._get(name, bounds, version) if start < stop else b""

  def _get(
    self, name: str, bounds: tuple[int, int] | None, version: str
  ) -> bytes:
    full = self._full(checked(name))
    size = bounds[1] - bounds[0] if bounds else 1 << 30
    try:
      return self._ask(
        f"reading {self.url}/{name}",
        lambda store: store.get(
          self._bucket, full, bounds, version, self._seconds(size)
        ),
      )
    except FileNotFoundError as error:
      # gs:// does not tell a missing version from a missing object.
      if version and self.entry(name) is not None:
        raise ChangedError(
          f"{self.url}/{name} has changed since it was looked up"
        ) from error
      raise

  def write(self, name: str, data: bytes) -> None:
    """See `Place`."""
    full = self._full(checked(name))
    self._ask(
      f"writing {self.url}/{name}",
      lambda store: store.put(
        self._bucket, full, data, None, self._seconds(len(data))
      ),
    )

  def create(self, name: str, data: bytes) -> bool:
    """See `Place`."""
    full = self._full(checked(name))
    writer = uuid.uuid4().hex

    def put(store: Store) -> bool:
      seconds = self._seconds(len(data))
      if store.put(self._bucket, full, data, writer, seconds):
        return True
      # An earlier attempt may have succeeded although its answer was lost; HTTP
      # clients also repeat a PUT by themselves.
      try:
        return store.head(self._bucket, full, seconds).writer == writer
      except FileNotFoundError:  # Its writer deleted it.
        return False

    return self._ask(f"creating {self.url}/{name}", put)

  def delete(self, name: str) -> None:
    """See `Place`."""
    full = self._full(checked(name))
    with contextlib.suppress(FileNotFoundError):
      self._ask(
        f"deleting {self.url}/{name}",
        lambda store: store.delete(self._bucket, full, self._seconds(0)),
      )

  def folder(self, name: str) -> "BucketPlace":
    """See `Place`."""
    root = self._full(checked(name))
    return BucketPlace(self._make_store, self._bucket, root, self._patience)

  def _full(self, name: str) -> str:
    return f"{self._root}/{name}" if self._root else name

  def _seconds(self, size: int) -> float:
    """Returns the time limit of an attempt that transfers `size` bytes."""
    return min(_SECONDS, self._patience) + size / _BYTES_PER_SECOND

  def _ask(self, what: str, request: Callable[[Store], T]) -> T:
    store = self._make_store()
    try:
      return retrying(
        lambda: request(store), store.transient, self._patience, what
      )
    except StoreError:
      raise
    except FileNotFoundError as error:
      raise FileNotFoundError(
        errno.ENOENT, f"{what} failed, because it does not exist"
      ) from error
    except Exception as error:
      if store.refused(error):
        raise RefusedError(
          f"{what} was refused ({describe(error)}); {store.remedy}"
        ) from error
      raise RejectedError(f"{what} failed ({describe(error)})") from error
