"""Writes what happens in a run: metrics, events, images and traces."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bigscale.parallel import multihost
from bigscale.spec import ImageCount, RunSpec, to_json
from bigscale.train.folder import RunFolder
from bigscale.train.home import open_home
from bigscale.train.meter import Meter
from bigscale.train.profiler import Profiler
from bigscale.train.step_times import StepTimes
from bigscale.train.stragglers import Stragglers
from bigscale.train.trackers.opening import open_trackers
from bigscale.train.trackers.tracker import Background
from bigscale.train.writers import Progress

_TIMES_INTERVAL_SECONDS = 60.0


class Recorder:
  """Writes rows of metrics and events.

  Attributes:
    count: number of images per step over the run.
  """

  def __init__(
    self,
    folder: RunFolder,
    spec: RunSpec,
    first_step: int,
    attempt: int = 0,
    meter: Meter | None = None,
    count: ImageCount | None = None,
  ) -> None:
    """Opens the files and removes the rows that this start will rewrite.

    Args:
      folder: folder of the run.
      spec: spec of the run.
      first_step: number of steps done.
      attempt: attempt of the state that the run resumes from.
      meter: FLOP counter of the run; None starts a new one at zero.
      count: number of images per step over the run; None means the spec's batch
        size for all steps.
    """
    self.count = count or spec.count
    self._changed = not self.count.is_uniform
    self._spec = spec
    self._meter = meter or Meter(spec)
    self._main = multihost.is_main()
    self._attempt = attempt
    self._data_wait = 0.0
    self._clock = time.perf_counter()
    self._clock_step = first_step
    self._started = time.time()
    self._times_written = time.monotonic()
    self._stragglers = Stragglers(multihost.watch())
    self._step_times = StepTimes(jax.local_devices())
    self._profiler = Profiler(spec.log.profiled_steps)
    if not self._main:
      return
    self._home = open_home(folder)
    self._profiler.open(folder.path, self._home.write)
    self._metrics, self._events = self._home.metrics, self._home.events
    self._metrics.truncate_after(first_step, attempt)
    self._progress = Progress(self.total_steps, first_step)
    self._trackers = open_trackers(folder, spec, self._home.write)
    if spec.log.tensorboard and (board := self._home.board()).active:
      self._trackers.append(Background("tensorboard", lambda: board))
    self._complete = False

  @property
  def total_steps(self) -> int:
    """Number of steps of the whole run."""
    return self.count.step_of(self._spec.total_kimg)

  def waited(self, seconds: float) -> None:
    """Adds seconds spent waiting for data."""
    self._data_wait += seconds

  def compiled(self, seconds: float) -> None:
    """Adds seconds spent compiling the step."""
    self._step_times.compiled(seconds)

  def dispatching(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Returns a context for dispatching a step; starts a trace if it is due."""
    return self._profiler.before(step)

  def dispatched(self, step: int, outputs: Any) -> None:
    """Ends a trace after its last step; see `Profiler.stop`."""
    if self._profiler.is_last(step):
      with multihost.watch().phase("profile", step):
        self.event("profile", step, **self._profiler.stop(step, outputs))
      self._step_times.paused()

  def finished(self) -> None:
    """Notes that a step has finished, which gives its time."""
    self._step_times.finished()

  def is_due(self, step: int) -> bool:
    """Returns whether the scalars of a step are written."""
    return step % self._spec.log.steps == 0 or step == self.total_steps

  def step(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the scalars of a step with its throughput."""
    now = time.perf_counter()
    steps, seconds = step - self._clock_step, now - self._clock
    images = steps * self._spec.images_per_step
    pace = {
      "perf/images_per_second": images / seconds,
      "perf/data_wait": self._data_wait / seconds,
      **self._meter.pace(steps, seconds),
      **self._meter.totals(step),
      **self._step_times.columns(),
    }
    if self._main:
      pace |= self._stragglers.columns() | self._home.cost()
    self._clock, self._clock_step, self._data_wait = now, step, 0.0
    self.row(step, {**values, **pace})
    if self._main:
      self._progress.update(step, {**values, **pace})

  def start_attempt(self, attempt: int, left: int, step: int) -> None:
    """Starts a new attempt after a rollback.

    Args:
      attempt: number of the new attempt, written to all further rows.
      left: step before the rollback.
      step: step after the rollback.
    """
    self.count = self.count.going_on(step, self._spec.images_per_step)
    self._meter.go_back(left, step, self.count)
    self._attempt = attempt
    self._clock, self._clock_step = time.perf_counter(), step
    self._data_wait = 0.0
    self._step_times.paused()
    if self._main:
      self._progress.go_back(step, self.total_steps)

  def row(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row to `metrics.jsonl` and the trackers."""
    if not self._main:
      return
    row = {
      "kimg": self.count.kimg(step),
      "seconds": round(time.time() - self._started, 3),
      "attempt": self._attempt,
      **values,
    }
    self._metrics.write({"step": step, **row})
    for tracker in self._trackers:
      tracker.scalars(step, row)
      if (error := tracker.take_failure()) is not None:
        self.event("tracker_failed", step, tracker=tracker.name, error=error)

  def count_events(self, kind: str, step: int) -> int:
    """Returns the number of events of a kind and step; only on process 0."""
    return sum(
      (event.get("event"), event.get("step"), event.get("attempt", 0))
      == (kind, step, self._attempt)
      for event in self._events.rows()
    )

  def scores_in_rows(self, step: int) -> dict[str, float]:
    """Returns the scores written for a step, or {}; only on process 0."""
    found: dict[str, float] = {}
    for row in self._metrics.rows():
      if (row.get("step"), row.get("attempt", 0)) == (step, self._attempt):
        found |= {
          name.removeprefix("eval/"): score
          for name, score in row.items()
          if name.startswith("eval/")
        }
    return found

  def meta(self, step: int) -> dict[str, Any]:
    """Returns the metadata of a step's checkpoint, as plain JSON."""
    return {
      "kimg": self.count.kimg(step),
      "batches": self.count.to_json(),
      # Replaces a lost spec.json.
      "spec": to_json(self._spec),
      "flops": self._meter.get_state(step),
    }

  def changed_batches(self) -> dict[str, Any]:
    """Returns event fields with the `ImageCount` if the batch size changed.

    Also returns them if a rollback went back to before the change, because the
    discarded steps had the other batch size.
    """
    self._changed = self._changed or not self.count.is_uniform
    return {"batches": self.count.to_json()} if self._changed else {}

  def event(self, kind: str, step: int, **fields: Any) -> None:
    """Writes an event."""
    if self._main:
      self._complete = kind == "done"
      self._events.write(
        {
          "event": kind,
          "step": step,
          "attempt": self._attempt,
          "time": time.time(),
          **fields,
        }
      )

  def times(self, step: int, seconds: Mapping[str, float]) -> None:
    """Writes an event with the seconds spent in each phase since the last one.

    Args:
      step: current step.
      seconds: wall time by phase.
    """
    self._times_written = time.monotonic()
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    self.event("times", step, seconds=rounded)

  def times_if_due(
    self, step: int, take: Callable[[], Mapping[str, float]]
  ) -> None:
    """Calls `times` if the last call was more than a minute ago.

    A killed run therefore loses at most a minute of times.

    Args:
      step: current step.
      take: returns the seconds by phase since its last call.
    """
    if time.monotonic() - self._times_written > _TIMES_INTERVAL_SECONDS:
      self.times(step, take())

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes an image to the trackers."""
    if self._main:
      for tracker in self._trackers:
        tracker.image(step, name, image)

  def write(self, name: str, data: bytes) -> None:
    """Writes a file into the run's folder; only on process 0."""
    self._home.write(name, data)

  def flush(self) -> None:
    """Waits until all rows are written; see `Home.flush`."""
    if self._main:
      self._home.flush()

  def check(self) -> None:
    """Raises `LeaseLostError` if another run has taken over the folder."""
    if self._main:
      self._home.check()

  def note(self, text: str) -> None:
    """Prints a message without breaking the progress bar."""
    if self._main:
      self._progress.note(text)

  def pause(self, seconds: float) -> None:
    """Excludes seconds spent outside steps from the throughput."""
    self._clock += seconds
    self._step_times.paused()

  def close(self) -> None:
    """Closes the writers."""
    if self._main:
      self._profiler.close()
      self._progress.close()
      for tracker in self._trackers:
        tracker.close()
      self._home.close(self._complete)
