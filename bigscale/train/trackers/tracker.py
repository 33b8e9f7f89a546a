"""The interface of trackers, and the thread that runs one."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

_log = logging.getLogger(__name__)

# Calls that wait for a slow tracker. An image of a grid takes a few megabytes.
_CAPACITY = 256
# Seconds that the end of a run waits for a tracker.
_CLOSE_SECONDS = 20.0


class Tracker(Protocol):
  """Receives the rows of a run.

  A restart or a rollback repeats steps, so `step` may decrease. `attempt` in
  the values is the number of rollbacks so far.
  """

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one value for each name."""

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes one image, [H, W, C] uint8 with C = 1 or 3."""

  def flush(self) -> None:
    """Writes what is buffered."""

  def close(self) -> None:
    """Writes what is buffered and ends."""


class Background:
  """Runs a tracker in a thread, so that it neither slows nor ends training.

  The calls wait in a queue of limited length. If the tracker is too slow, calls
  are dropped. After an exception, the tracker is not called again.
  `metrics.jsonl` has all scalars in any case. (clu's `AsyncWriter` has a thread
  as well, but its queue is unlimited and its exceptions end the training.)

  Attributes:
    name: name of the tracker, for messages.
  """

  def __init__(
    self,
    name: str,
    open_tracker: Callable[[], Tracker],
    *,
    capacity: int = _CAPACITY,
    close_seconds: float = _CLOSE_SECONDS,
  ) -> None:
    """Starts the thread.

    Args:
      name: name of the tracker, for messages.
      open_tracker: opens the tracker; called in the thread, because it may
        wait for a network.
      capacity: maximum number of calls that wait.
      close_seconds: maximum seconds that `close` waits.
    """
    self.name = name
    self._open_tracker = open_tracker
    self._close_seconds = close_seconds
    self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(
      capacity
    )
    self._failure: str | None = None
    self._failed = False
    self._dropped = 0
    # Not joined at the end of the program: it may hang.
    self._thread = threading.Thread(
      target=self._run, name=f"tracker {name}", daemon=True
    )
    self._thread.start()

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Queues `Tracker.scalars`."""
    self._put("scalars", step, dict(values))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Queues `Tracker.image`."""
    self._put("image", step, name, image)

  def flush(self) -> None:
    """Queues `Tracker.flush`."""
    self._put("flush")

  def close(self) -> None:
    """Closes the tracker if it finishes in time."""
    try:
      self._calls.put(("close", ()), timeout=self._close_seconds)
      self._thread.join(self._close_seconds)
    except queue.Full:
      pass
    if self._thread.is_alive():
      _log.warning(
        "tracker %s still waits; its last rows are lost. metrics.jsonl has all "
        "scalars",
        self.name,
      )

  def take_failure(self) -> str | None:
    """Returns why the tracker has failed, once; None if it has not."""
    failure, self._failure = self._failure, None
    return failure

  def _put(self, method: str, *arguments: Any) -> None:
    if self._failed:
      return
    try:
      self._calls.put_nowait((method, arguments))
    except queue.Full:
      self._dropped += 1
      if self._dropped == 1:
        self._failure = (
          f"too slow: {self._calls.maxsize} calls wait, and further ones are "
          "dropped"
        )
        _log.warning("tracker %s is %s", self.name, self._failure)

  def _run(self) -> None:
    try:
      tracker = self._open_tracker()
      while True:
        method, arguments = self._calls.get()
        getattr(tracker, method)(*arguments)
        if method == "close":
          return
    except BaseException as error:
      # A library may also raise SystemExit.
      self._failed = True
      self._failure = f"{type(error).__name__}: {error}"
      _log.warning(
        "tracker %s failed (%s); training continues without it",
        self.name,
        self._failure,
      )
      self._discard()

  def _discard(self) -> None:
    """Empties the queue, so that `close` does not wait for room in it."""
    while True:
      try:
        self._calls.get_nowait()
      except queue.Empty:
        return
