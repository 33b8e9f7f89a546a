"""What `BucketPlace` needs of the client of an object store."""

from typing import NamedTuple, Protocol

from bigscale.place.base import Entry

# Answers of a server after which the same request may succeed.
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class Found(NamedTuple):
  """An object.

  Attributes:
    entry: its name in the bucket, size and version.
    writer: the identifier passed to `Store.put`; None if none was passed.
  """

  entry: Entry
  writer: str | None


class Store(Protocol):
  """Single requests to an object store; names are relative to the bucket.

  No method repeats a request. `seconds` limits the time of a request.

  Attributes:
    scheme: scheme of its addresses.
    remedy: what to do without permission, for messages.
  """

  scheme: str
  remedy: str

  def transient(self, error: Exception) -> bool:
    """Returns whether a request that failed with this error may succeed."""

  def refused(self, error: Exception) -> bool:
    """Returns whether an error is about credentials or permissions."""

  def list(
    self, bucket: str, prefix: str, most: int | None, seconds: float
  ) -> list[Entry]:
    """Returns the objects whose name starts with a prefix, at most `most`."""

  def head(self, bucket: str, name: str, seconds: float) -> Found:
    """Returns an object without content; raises FileNotFoundError."""

  def get(
    self,
    bucket: str,
    name: str,
    bounds: tuple[int, int] | None,
    version: str,
    seconds: float,
  ) -> bytes:
    """Returns an object, or the bytes [start, stop) of it.

    Raises:
      FileNotFoundError: it does not exist, or not in this version ("" is any).
    """

  def put(
    self,
    bucket: str,
    name: str,
    data: bytes,
    writer: str | None,
    seconds: float,
  ) -> bool:
    """Writes an object.

    Args:
      bucket: the bucket.
      name: name of the object.
      data: content of the object.
      writer: if given, an identifier that is stored with the object, which is
        written only if the name is free.
      seconds: limit of the time.

    Returns:
      False if the name is not free.
    """

  def delete(self, bucket: str, name: str, seconds: float) -> None:
    """Deletes an object; may raise FileNotFoundError."""
