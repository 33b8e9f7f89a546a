"""Checkpoints on a bucket: a save that fails does not end the run at once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bigscale.parallel import multihost
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.lease import LeaseLostError
from bigscale.train.state import GanState

# Pause between attempts to save the last step of a run.
_RETRY_SECONDS = 10.0
_log = logging.getLogger(__name__)


class SaveFailedError(RuntimeError):
  """Checkpoints could not be saved for longer than the run may go on."""


class Reports(Protocol):
  """What a save needs of the run's recorder."""

  def flush(self) -> None:
    """Waits until all rows are written."""
    ...

  def event(self, kind: str, step: int, **fields: Any) -> None:
    """Writes an event."""
    ...


class BucketCheckpoints(Checkpoints):
  """Checkpoints of a run whose saves may fail for a while.

  The rows of a step are written before its checkpoint, which makes them final.
  A failed save is reported. If saves keep failing for longer than
  `operations.unsaved_seconds`, the run ends.
  """

  def __init__(self, *arguments: Any, **options: Any) -> None:
    """See `Checkpoints`."""
    self._reports: Reports | None = None
    self._limit = 0.0
    self._clock: Callable[[], float] = time.monotonic
    self._failing_since: float | None = None
    self._failed: set[int] = set()
    # Step of a save whose outcome is not known yet.
    self._pending: int | None = None
    super().__init__(*arguments, **options)

  def attend(self, reports: Reports, seconds: float) -> None:
    """Sets who flushes rows and reports failures, and how long saves may fail.

    Args:
      reports: the run's recorder.
      seconds: maximum seconds from the first failed save to the last one.
    """
    self._reports, self._limit = reports, seconds

  def steps(self) -> list[int]:
    """Returns all complete steps in ascending order."""
    # After a failure, Orbax still lists the step.
    return [step for step in super().steps() if step not in self._failed]

  def save(
    self,
    step: int,
    state: GanState,
    data: Mapping[str, Any],
    meta: Mapping[str, Any],
  ) -> None:
    """Saves a step asynchronously after writing all rows; see `Checkpoints`.

    Raises:
      SaveFailedError: if saves have failed for too long.
      LeaseLostError: if another run has taken over the folder.
    """
    self.wait()
    save = super().save
    why = (
      (self._failed and _attempt(self._reopen))
      or _attempt(self._prepare)
      or _attempt(lambda: save(step, state, data, meta))
    )
    if why:
      self._fail(step, why)
    else:
      self._pending = step

  def wait(self) -> None:
    """Waits until the last save is complete or has failed.

    Raises:
      SaveFailedError: if saves have failed for too long.
      LeaseLostError: if another run has taken over the folder.
    """
    if self._pending is None:
      return
    step, self._pending = self._pending, None
    why = _attempt(self._manager.wait_until_finished)
    if why:
      self._fail(step, why)
    else:
      self._failing_since = None
      self._delete_old()

  def finish(self, step: int, save: Callable[[], None]) -> None:
    """Waits until a step is saved, and saves it again if necessary.

    Args:
      step: last step of the run or of this start.
      save: saves the step.

    Raises:
      SaveFailedError: if saves have failed for too long.
    """
    self.wait()
    while step not in self.steps():
      time.sleep(_RETRY_SECONDS)
      save()
      self.wait()

  def close(self) -> None:
    """Waits for the last save and closes; a failure is only logged."""
    try:
      super().close()
    except Exception as error:
      _log.error("the last save has failed: %s", error)

  def _prepare(self) -> None:
    """Writes the rows that the save makes final, and verifies the claim."""
    if self._reports is not None:
      self._reports.flush()
    if self.claim is not None:
      self.claim.verify()

  def _reopen(self) -> None:
    """Opens the folder anew after a failed save."""
    try:
      self._manager.close()
    except Exception as error:
      _log.info("closing after a failed save: %s", error)
    self._open()
    self._failed = set()

  def _fail(self, step: int, why: str) -> None:
    """Reports a failed save; raises if saves have failed for too long."""
    if self.claim is not None:
      self.claim.check()
    now = self._clock()
    if self._failing_since is None:
      self._failing_since = now
    self._failed.add(step)
    seconds = now - self._failing_since
    if multihost.is_main():
      _log.warning("step %d could not be saved: %s", step, why)
    if self._reports is not None:
      self._reports.event("save_failed", step, why=why)
    if multihost.decide("saves", lambda: seconds >= self._limit):
      raise SaveFailedError(
        f"no checkpoint could be saved for {seconds:.0f} s, and "
        f"operations.unsaved_seconds={self._limit:g}. Step {step}: {why}. Make "
        "the bucket writable, then start the run again: it resumes from the "
        "last complete checkpoint"
      )


def _attempt(work: Callable[[], None]) -> str:
  """Returns why work failed on any process, or ""; equal on all processes.

  Raises:
    LeaseLostError: if another run has taken over the folder.
  """
  reasons: Sequence[str] = []
  try:
    work()
  except LeaseLostError:
    raise
  except Exception as error:
    # Clients of buckets raise exceptions of many kinds.
    lines = str(error).strip().splitlines() or [""]
    reasons = [f"{type(error).__name__}: {lines[0][:200]}"]
  found = multihost.gather("saves", reasons)
  return multihost.decide("saves", lambda: found[0] if found else "")
