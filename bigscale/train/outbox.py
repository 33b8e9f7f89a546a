"""Writes files to a bucket in a thread, so that training does not wait."""

import collections
import logging
import threading
import time
from collections.abc import Callable

from bigscale.place import Place

# How long rows are collected before they are written as one object.
_INTERVAL_SECONDS = 60.0
_RETRY_SECONDS = 10.0
_POLL_SECONDS = 1.0
_log = logging.getLogger(__name__)

# Returns name and content of a file to write, or None if there is nothing new.
Source = Callable[[], tuple[str, bytes] | None]


class Outbox:
  """Files that a thread writes in order, each as often as necessary."""

  def __init__(self, place: Place, interval: float = _INTERVAL_SECONDS) -> None:
    """Starts the thread.

    Args:
      place: folder to write to.
      interval: seconds between two calls of each source.
    """
    self._place = place
    self._interval = interval
    self._sources: list[Source] = []
    self._files: collections.deque[tuple[str, bytes]] = collections.deque()
    self._changed = threading.Condition()
    # Counts calls of `flush`, those that are done, and failed attempts.
    self._asked = self._done = self._failures = 0
    self._error: Exception | None = None
    self._closed = False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def add(self, source: Source) -> None:
    """Adds a source, which the thread calls at each interval and flush."""
    with self._changed:
      self._sources.append(source)

  def put(self, name: str, data: bytes) -> None:
    """Adds a file to write, and returns at once."""
    with self._changed:
      self._files.append((name, data))
      self._changed.notify_all()

  def flush(self) -> None:
    """Waits until everything that was added is written.

    Raises:
      OSError: if a file cannot be written. It stays in the outbox, and the
        thread tries again.
    """
    with self._changed:
      self._asked += 1
      asked, failures = self._asked, self._failures
      self._changed.notify_all()
      while self._done < asked and self._failures == failures:
        if not self._thread.is_alive():
          raise OSError(f"nothing more is written to {self._place.url}")
        self._changed.wait(_POLL_SECONDS)
      if self._failures > failures:
        raise OSError(
          f"cannot write to {self._place.url} ({self._error})"
        ) from self._error

  def close(self) -> None:
    """Ends the thread without writing what is left."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    self._thread.join()

  def _run(self) -> None:
    due = time.monotonic() + self._interval
    while True:
      with self._changed:
        while not (self._closed or self._is_asked() or self._files):
          left = due - time.monotonic()
          if left <= 0 or not self._changed.wait(left):
            break
        if self._closed:
          return
        asked = self._asked
        if self._is_asked() or time.monotonic() >= due:
          due = time.monotonic() + self._interval
          found = [source() for source in self._sources]
          self._files.extend(file for file in found if file is not None)
      self._write_all(asked)

  def _is_asked(self) -> bool:
    return self._done < self._asked

  def _write_all(self, asked: int) -> None:
    """Writes the files until one fails, and answers the calls of `flush`."""
    while self._files:
      name, data = self._files[0]
      try:
        self._place.write(name, data)
      except Exception as error:
        self._note(error)
        return
      with self._changed:
        self._files.popleft()
    with self._changed:
      self._error = None
      self._done = asked
      self._changed.notify_all()

  def _note(self, error: Exception) -> None:
    """Answers `flush` with a failure and waits before the next attempt."""
    if self._error is None:
      _log.warning("cannot write to %s (%s)", self._place.url, error)
    with self._changed:
      self._error = error
      self._failures += 1
      self._done = self._asked
      self._changed.notify_all()
      until = time.monotonic() + _RETRY_SECONDS
      while not (self._closed or self._is_asked()):
        left = until - time.monotonic()
        if left <= 0 or not self._changed.wait(left):
          return
