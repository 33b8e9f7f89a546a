"""The files that a run writes while it trains, on a disk or on a bucket.

On a disk, rows are appended to files at once. On a bucket, a thread writes the
rows of a minute as one object (`place/log`). `flush` writes all of them before
a checkpoint makes their steps final.
"""

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from bigscale import place as places
from bigscale.place import Place, log
from bigscale.train.folder import RunFolder
from bigscale.train.lease import Lease
from bigscale.train.outbox import Outbox
from bigscale.train.writers import (
  JsonLines,
  TensorBoard,
  line_of,
  parse_lines,
  without_repeated,
)

_DELETERS = 16
_log = logging.getLogger(__name__)


class Rows(Protocol):
  """A log of JSON objects."""

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends one row."""
    ...

  def rows(self) -> list[dict[str, Any]]:
    """Returns all rows in order."""
    ...

  def truncate_after(self, step: int, attempt: int = 0) -> None:
    """Removes the rows that a restored run will write again."""
    ...


class Home(Protocol):
  """Where a run writes its rows, events and images.

  Attributes:
    metrics: rows of metrics.
    events: events.
  """

  metrics: Rows
  events: Rows

  def board(self) -> "TensorBoard | StagedBoard":
    """Opens the TensorBoard events."""
    ...

  def write(self, name: str, data: bytes) -> None:
    """Writes a file, at once or as soon as possible."""
    ...

  def flush(self) -> None:
    """Waits until everything is written; raises OSError if it cannot be."""
    ...

  def check(self) -> None:
    """Raises `LeaseLostError` if another run has taken over the folder."""
    ...

  def cost(self) -> dict[str, float]:
    """Returns what the row of a step reports about the store."""
    ...

  def close(self, complete: bool) -> None:
    """Writes what is left.

    Args:
      complete: whether the run is complete and its files can be merged.
    """
    ...


def open_home(folder: RunFolder) -> Home:
  """Opens the home of a claimed run."""
  if isinstance(folder.claim, Lease):
    return BucketHome(folder.place, folder.claim)
  return DiskHome(folder)


class DiskHome:
  """A folder on a disk: every row is in its file when `write` returns."""

  def __init__(self, folder: RunFolder) -> None:
    self._folder = folder
    self.metrics = JsonLines(folder.metrics)
    self.events = JsonLines(folder.events)

  def board(self) -> TensorBoard:
    """Opens the TensorBoard events."""
    return TensorBoard(self._folder.path / "tensorboard")

  def write(self, name: str, data: bytes) -> None:
    """Writes a file."""
    self._folder.place.write(name, data)

  def flush(self) -> None:
    """Does nothing."""

  def check(self) -> None:
    """Does nothing: the kernel keeps the lock."""

  def cost(self) -> dict[str, float]:
    """Returns {}."""
    return {}

  def close(self, complete: bool) -> None:
    """Does nothing."""


class BucketHome:
  """A folder on a bucket: a thread writes rows in parts, and files in order."""

  def __init__(self, place: Place, claim: Lease) -> None:
    self._place, self._claim = place, claim
    self._outbox = Outbox(place)
    self._requests = places.requests().total()
    self.metrics = PartLines(place, "metrics", claim, self._outbox)
    self.events = PartLines(place, "events", claim, self._outbox)
    self._board: StagedBoard | None = None

  def board(self) -> "StagedBoard":
    """Opens the TensorBoard events."""
    self._board = StagedBoard(self._outbox)
    return self._board

  def write(self, name: str, data: bytes) -> None:
    """Adds a file to the outbox."""
    self._outbox.put(name, data)

  def flush(self) -> None:
    """Waits until all rows and files are on the bucket."""
    if self._board is not None:
      self._board.flush()
    self._outbox.flush()

  def check(self) -> None:
    """Raises `LeaseLostError` if another run has taken over the folder."""
    self._claim.check()

  def cost(self) -> dict[str, float]:
    """Returns the number of requests since the last call."""
    before, self._requests = self._requests, places.requests().total()
    return {"perf/store_requests": float(self._requests - before)}

  def close(self, complete: bool) -> None:
    """Writes what is left, unless another run has taken over the folder."""
    try:
      self._claim.verify()
      if self._board is not None:
        self._board.close()
      self._outbox.flush()
      if complete:
        self.metrics.merge()
        self.events.merge()
    except OSError as error:
      _log.warning(
        "the last rows could not be written to %s (%s)", self._place.url, error
      )
    finally:
      self._outbox.close()


class PartLines:
  """Rows on a bucket, which are written in parts.

  At the start, all earlier parts are merged into the first part of this lease.
  """

  def __init__(
    self, place: Place, name: str, claim: Lease, outbox: Outbox
  ) -> None:
    self._place, self._name = place, name
    self._claim, self._outbox = claim, outbox
    self._first = log.part_name(name, claim.number, 0)
    self._lock = threading.Lock()
    self._lines: list[bytes] = []
    self._parts = 0
    self._begin(_whole_lines(log.read(place, name) or b""))
    outbox.add(self._take)

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends one row; a thread writes it to the bucket within a minute."""
    line = line_of(row)
    with self._lock:
      self._lines.append(line)

  def rows(self) -> list[dict[str, Any]]:
    """Returns all rows in order, after writing those of this process."""
    self._outbox.flush()
    return parse_lines(log.read(self._place, self._name) or b"")

  def truncate_after(self, step: int, attempt: int = 0) -> None:
    """Removes the rows that a restored run will write again.

    See `JsonLines.truncate_after`.
    """
    self._outbox.flush()
    found = log.read(self._place, self._name) or b""
    self._begin(without_repeated(found, step, attempt))

  def merge(self) -> None:
    """Replaces all parts by one file, as on a disk."""
    self._outbox.flush()
    found = log.read(self._place, self._name) or b""
    self._claim.verify()
    self._place.write(log.file_name(self._name), found)
    own = f"{self._name}/{self._claim.number:06d}-"
    parts = log.all_parts(self._place, self._name)
    self._delete(part for part in parts if not part.startswith(own))
    # From here on, the file counts, because its parts have no first one.
    self._place.delete(self._first)
    self._delete(parts)

  def _begin(self, content: bytes) -> None:
    """Makes `content` the first part of this lease, before any other part."""
    self._claim.verify()
    self._place.write(self._first, content)
    parts = log.all_parts(self._place, self._name)
    self._delete(part for part in parts if part != self._first)
    if self._place.entry(log.file_name(self._name)) is not None:
      self._place.delete(log.file_name(self._name))

  def _delete(self, parts: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_DELETERS) as pool:
      list(pool.map(self._place.delete, parts))

  def _take(self) -> tuple[str, bytes] | None:
    """Returns the next part; None if there are no new rows."""
    with self._lock:
      if not self._lines:
        return None
      self._parts += 1
      lines, self._lines = self._lines, []
      name = log.part_name(self._name, self._claim.number, self._parts)
    return name, b"".join(lines)


def _whole_lines(content: bytes) -> bytes:
  """Returns content without an incomplete last line."""
  return content[: content.rfind(b"\n") + 1]


class StagedBoard:
  """TensorBoard events that are written to a disk first.

  TensorFlow would write the whole file to the bucket at each flush. Here, each
  file is written once, when it is complete, and a new one is begun. All methods
  are thread-safe, since `flush` and the tracker's thread call at the same time.
  """

  def __init__(self, outbox: Outbox) -> None:
    self._outbox = outbox
    self._lock = threading.RLock()
    self._folder = pathlib.Path(tempfile.mkdtemp(prefix="bigscale-events-"))
    self._writer = TensorBoard(self._folder)
    self.active = self._writer.active
    self._new = False

  def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one value for each name."""
    with self._lock:
      if self.active:
        self._open().scalars(step, scalars)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes an image [H, W, C] uint8."""
    with self._lock:
      if self.active:
        self._open().image(step, name, image)

  def flush(self) -> None:
    """Adds the events so far to the outbox."""
    with self._lock:
      if not self._new:
        return
      self._writer.close()
      self._new = False
      for file in sorted(self._folder.rglob("*")):
        if file.is_file():
          name = file.relative_to(self._folder).as_posix()
          self._outbox.put(f"tensorboard/{name}", file.read_bytes())
          file.unlink()

  def close(self) -> None:
    """Adds the remaining events to the outbox; later calls do nothing."""
    with self._lock:
      self.flush()
      self.active = False
      self._writer.close()
      with contextlib.suppress(OSError):
        shutil.rmtree(self._folder)

  def _open(self) -> TensorBoard:
    if not self._new and not self._writer.active:
      self._writer = TensorBoard(os.fspath(self._folder))
    self._new = True
    return self._writer
