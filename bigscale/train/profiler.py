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

from bigscale import temporary
from bigscale.spec.log import MAX_PROFILED_STEPS

FOLDER = "profiles"
REQUEST = "profile.request"
# Seconds between two looks for a request.
_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Profiler:
  """Traces steps. A trace that fails never ends the training."""

  def __init__(
    self,
    workdir: pathlib.Path,
    window: tuple[int, int] | None = None,
    *,
    enabled: bool = True,
  ) -> None:
    """Initializes without tracing.

    Args:
      workdir: folder of the run.
      window: first and last step to trace; None traces only on request.
      enabled: whether this process traces.
    """
    self._workdir = workdir
    self._window = window
    self._enabled = enabled
    self._looked = time.monotonic()
    self._first = 0
    self._last: int | None = None
    self._partial = ""

  def is_last(self, step: int) -> bool:
    """Returns whether a step is the last one of the current trace."""
    return self._last is not None and step >= self._last

  def before(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Starts a trace if it is due; returns a context for the step.

    Args:
      step: number of the step that begins.
    """
    if not self._enabled:
      return contextlib.nullcontext()
    if self._last is None and (last := self._wanted(step)):
      self._start(step, last)
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def stop(self, step: int, outputs: Any) -> dict[str, Any]:
    """Ends the trace and moves it to the run's folder.

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
      fields["path"] = _move(pathlib.Path(self._partial), self._workdir)
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
    if time.monotonic() - self._looked < _SECONDS:
      return None
    self._looked = time.monotonic()
    steps = take_request(self._workdir)
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


def request(workdir: pathlib.Path, steps: int) -> None:
  """Asks the run in a folder to trace its next steps."""
  with temporary.replacing(workdir / REQUEST) as partial:
    partial.write_text(json.dumps({"steps": steps}))


def take_request(workdir: pathlib.Path) -> int | None:
  """Removes a request from a run's folder; returns its steps, or None."""
  path = workdir / REQUEST
  try:
    text = path.read_text()
    path.unlink()
    steps = int(json.loads(text)["steps"])
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    _log.warning("%s is not a request (%s); use bigscale profile", path, error)
    return None
  return min(steps, MAX_PROFILED_STEPS) if steps > 0 else None


def _move(trace: pathlib.Path, workdir: pathlib.Path) -> str:
  """Moves a trace into `profiles/`; returns its path within the run.

  A trace is a folder `plugins/profile/TIME`. It gets its name once all its
  files are there.
  """
  (source,) = trace.glob("plugins/profile/*")
  within = pathlib.Path(FOLDER) / "plugins" / "profile" / source.name
  target = workdir / within
  target.parent.mkdir(parents=True, exist_ok=True)
  copy = target.with_name(f".{target.name}.partial")
  shutil.copytree(source, copy)
  copy.rename(target)
  return within.as_posix()
