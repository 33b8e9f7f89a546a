"""Writes traces of training steps that XProf and TensorBoard show.

The steps are those of `log.profile`, or the next ones after a request, which is
a file in the run's folder. Only process 0 traces: its hosts' devices do the
same work as all others.
"""

import contextlib
import json
import logging
import pathlib
import shutil
import tempfile
import time
from typing import Any

import jax
from etils import epath

from bigscale.place import Place, is_remote, open_place
from bigscale.spec.log import MAX_PROFILED_STEPS
from bigscale.train.writers import Write

FOLDER = "profiles"
REQUEST = "profile.request"
# Seconds between two looks for a request; on a bucket, each is a request to the
# store, which training waits for.
_SECONDS, _BUCKET_SECONDS = 5.0, 60.0
_PATIENCE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Profiler:
  """Traces steps. A trace that fails never ends the training."""

  def __init__(self, window: tuple[int, int] | None = None) -> None:
    """Initializes without tracing, which begins after `open`.

    Args:
      window: first and last step to trace; None traces only on request.
    """
    self._window = window
    self._place: Place | None = None
    self._write: Write | None = None
    self._interval = _SECONDS
    self._looked = time.monotonic()
    self._first = 0
    self._last: int | None = None
    self._partial = ""

  def open(self, workdir: epath.Path, write: Write) -> None:
    """Makes this process trace.

    Args:
      workdir: folder of the run.
      write: writes a file into it (`Home.write`).
    """
    self._place = open_place(workdir, patience=_PATIENCE_SECONDS)
    self._write = write
    self._interval = _BUCKET_SECONDS if is_remote(workdir) else _SECONDS

  def is_last(self, step: int) -> bool:
    """Returns whether a step is the last one of the current trace."""
    return self._last is not None and step >= self._last

  def before(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Starts a trace if it is due; returns a context for the step.

    Args:
      step: number of the step that begins.
    """
    if self._place is None:
      return contextlib.nullcontext()
    if self._last is None and (last := self._wanted(step)):
      self._start(step, last)
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def stop(self, step: int, outputs: Any) -> dict[str, Any]:
    """Ends the trace and writes it to the run's folder.

    Args:
      step: number of the step that was dispatched.
      outputs: arrays of the step; the trace ends once they are computed.

    Returns:
      Fields of an event.
    """
    jax.block_until_ready(outputs)
    fields: dict[str, Any] = {"from_step": self._first}
    try:
      self._end()
      assert self._write is not None  # `_start` follows `open`.
      fields["path"] = _store(pathlib.Path(self._partial), self._write)
    except Exception as error:
      _log.warning(
        "the trace of steps %d to %d is lost (%s)", self._first, step, error
      )
      fields["error"] = f"{type(error).__name__}: {error}"
    finally:
      shutil.rmtree(self._partial, ignore_errors=True)
    return fields

  def close(self) -> None:
    """Drops a trace whose last step was not reached."""
    if self._last is not None:
      with contextlib.suppress(Exception):
        self._end()
      shutil.rmtree(self._partial, ignore_errors=True)

  def _end(self) -> None:
    self._last = None
    jax.profiler.stop_trace()

  def _wanted(self, step: int) -> int | None:
    """Returns the last step of the trace that begins now, or None."""
    if self._window and self._window[0] <= step <= self._window[1]:
      last, self._window = self._window[1], None
      return last
    if time.monotonic() - self._looked < self._interval:
      return None
    self._looked = time.monotonic()
    steps = take_request(self._place) if self._place else None
    return step + steps - 1 if steps else None

  def _start(self, first: int, last: int) -> None:
    try:
      self._partial = tempfile.mkdtemp(prefix="bigscale_profile_")
      jax.profiler.start_trace(self._partial)
    except Exception as error:
      _log.warning("cannot trace steps %d to %d (%s)", first, last, error)
      shutil.rmtree(self._partial, ignore_errors=True)
      return
    self._first, self._last = first, last


def request(place: Place, steps: int) -> None:
  """Asks the run in a folder to trace its next steps."""
  place.write(REQUEST, json.dumps({"steps": steps}).encode())


def take_request(place: Place) -> int | None:
  """Removes a request from a run's folder; returns its steps, or None."""
  try:
    text = place.read(REQUEST)
    place.delete(REQUEST)
    steps = int(json.loads(text)["steps"])
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    where = f"{place.url}/{REQUEST}"
    _log.warning("%s is not a request (%s); use bigscale profile", where, error)
    return None
  return min(steps, MAX_PROFILED_STEPS) if steps > 0 else None


def _store(trace: pathlib.Path, write: Write) -> str:
  """Writes a trace into `profiles/`; returns its path within the run.

  A trace is a folder `plugins/profile/TIME`.
  """
  (source,) = trace.glob("plugins/profile/*")
  within = f"{FOLDER}/plugins/profile/{source.name}"
  for file in sorted(source.rglob("*")):
    if file.is_file():
      name = file.relative_to(source).as_posix()
      write(f"{within}/{name}", file.read_bytes())
  return within
