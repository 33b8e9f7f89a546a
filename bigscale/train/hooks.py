"""What happens beside the steps: rows, grids, scores, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bigscale.metrics.evaluate import Opened, open_evaluation
from bigscale.metrics.evaluator import Evaluator
from bigscale.metrics.labels import labels_of
from bigscale.metrics.looking import Asked
from bigscale.parallel import multihost
from bigscale.sampling import grid, sample
from bigscale.spec import ImageCount, RunSpec, TruncationRule, to_json
from bigscale.train.build import Built
from bigscale.train.folder import RunFolder
from bigscale.train.meter import Meter
from bigscale.train.state import Average
from bigscale.train.stragglers import Stragglers
from bigscale.train.writers import JsonLines, Progress, TensorBoard

# Fixed latents of the grids and of evaluations, apart from those of training.
GRID_SEED = 1
EVAL_SEED = 2
_SECONDS_BETWEEN_TIMES = 60.0


class DivergedError(RuntimeError):
  """A run is lost, and the monitor could not save it.

  Attributes:
    step: at which it was lost.
  """

  def __init__(self, step: int, why: str, healthy: int | None = None) -> None:
    """Says what is left: the healthy state of that step, if there is one."""
    left = "the newest checkpoint may be from before it"
    if healthy is not None:
      left = f"the newest healthy state is healthy/{healthy}"
    super().__init__(f"lost at step {step}: {why}; {left}")
    self.step = step


class Recorder:
  """Writes rows of metrics and events.

  Attributes:
    count: of the run's images.
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
    """Opens the files, and cuts what this start will write again.

    Args:
      folder: of the run.
      spec: of the run.
      first_step: steps done.
      attempt: of the state that the run goes on from.
      meter: of what the run computes; None counts from nothing.
      count: of the run's images; None takes the spec's batch size for all.
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
    self._told_times = time.monotonic()
    self._stragglers = Stragglers(multihost.watch())
    if not self._main:
      return
    self._metrics = JsonLines(folder.metrics)
    self._events = JsonLines(folder.events)
    self._metrics.truncate_after(first_step, attempt)
    self._progress = Progress(self.total_steps, first_step)
    self._tensorboard = (
      TensorBoard(folder.path / "tensorboard") if spec.log.tensorboard else None
    )

  @property
  def total_steps(self) -> int:
    """Steps of the whole run."""
    return self.count.step_of(self._spec.total_kimg)

  def waited(self, seconds: float) -> None:
    """Counts time spent waiting for data."""
    self._data_wait += seconds

  def is_due(self, step: int) -> bool:
    """Whether a step's scalars are written."""
    return step % self._spec.log.steps == 0 or step == self.total_steps

  def step(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the scalars of a step, with its pace."""
    now = time.perf_counter()
    steps, seconds = step - self._clock_step, now - self._clock
    images = steps * self._spec.images_per_step
    pace = {
      "perf/images_per_second": images / seconds,
      "perf/data_wait": self._data_wait / seconds,
      **self._meter.pace(steps, seconds),
      **self._meter.totals(step),
    }
    if self._main:
      pace |= self._stragglers.columns()
    self._clock, self._clock_step, self._data_wait = now, step, 0.0
    self.row(step, {**values, **pace})
    if self._main:
      self._progress.update(step, {**values, **pace})

  def start_attempt(self, attempt: int, left: int, step: int) -> None:
    """Goes back from one step to another; what is written now on says so."""
    self.count = self.count.going_on(step, self._spec.images_per_step)
    self._meter.go_back(left, step, self.count)
    self._attempt = attempt
    self._clock, self._clock_step = time.perf_counter(), step
    self._data_wait = 0.0
    if self._main:
      self._progress.go_back(step, self.total_steps)

  def row(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row to every log."""
    if not self._main:
      return
    self._metrics.write(
      {
        "step": step,
        "kimg": self.count.kimg(step),
        "seconds": round(time.time() - self._started, 3),
        "attempt": self._attempt,
        **values,
      }
    )
    if self._tensorboard:
      self._tensorboard.scalars(step, values)

  def told(self, kind: str, step: int) -> int:
    """How many events of a kind tell of a step; on process 0."""
    return sum(
      (event.get("event"), event.get("step"), event.get("attempt", 0))
      == (kind, step, self._attempt)
      for event in self._events.rows()
    )

  def scored(self, step: int) -> dict[str, float]:
    """Scores of a step that its row holds, {} without one; on process 0."""
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
    """What every checkpoint of a step notes, as plain JSON."""
    return {
      "kimg": self.count.kimg(step),
      "batches": self.count.to_json(),
      # For a run that loses its spec.json.
      "spec": to_json(self._spec),
      "flops": self._meter.get_state(step),
    }

  def changed_batches(self) -> dict[str, Any]:
    """Of a run whose batch size has changed, its `ImageCount`, for an event.

    Also where it went back to before: what was given up had the other size.
    """
    self._changed = self._changed or not self.count.is_uniform
    return {"batches": self.count.to_json()} if self._changed else {}

  def event(self, kind: str, step: int, **fields: Any) -> None:
    """Writes what is not a step's number."""
    if self._main:
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
    """Writes where the wall's time went since the last such event."""
    self._told_times = time.monotonic()
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    self.event("times", step, seconds=rounded)

  def times_if_due(
    self, step: int, take: Callable[[], Mapping[str, float]]
  ) -> None:
    """The same once a minute: what a kill leaves unknown is less than that."""
    if time.monotonic() - self._told_times > _SECONDS_BETWEEN_TIMES:
      self.times(step, take())

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Shows a picture in TensorBoard."""
    if self._main and self._tensorboard:
      self._tensorboard.image(step, name, image)

  def note(self, text: str) -> None:
    """Tells the user, without breaking the progress bar."""
    if self._main:
      self._progress.note(text)

  def pause(self, seconds: float) -> None:
    """Leaves time spent outside of steps out of the throughput."""
    self._clock += seconds

  def close(self) -> None:
    """Flushes files."""
    if self._main:
      self._progress.close()
      if self._tensorboard:
        self._tensorboard.close()


def draw_grid(
  built: Built, folder: RunFolder, recorder: Recorder, step: int, ema: Average
) -> None:
  """Writes samples/STEP.png: the same latents and labels at every step."""
  count = built.spec.log.num_samples
  (drawn,) = sample.sample(
    built.sample,
    ema,
    built.spec.model,
    count=count,
    batch_size=count,
    seed=GRID_SEED,
  )
  if not multihost.is_main():
    return
  columns = built.spec.model.num_classes or math.isqrt(count)
  columns = min(columns, count, 10 if columns <= 10 else math.isqrt(count))
  scale = grid.view_scale(built.spec.model.resolution)
  grid.save_png(folder.samples(step), drawn.images, columns, scale)
  recorder.image(step, "samples", grid.grid(drawn.images, columns, scale=scale))


def draw_for_scores(
  built: Built,
  ema: Average,
  asked: Asked,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
) -> Iterator[sample.DrawnSamples]:
  """Draws what is scored: the same latents and labels at every call.

  Args:
    built: of the run.
    ema: weights to draw with.
    asked: how many samples, and of which classes.
    truncation: see `sampling.sample`.
    rule: see `sampling.sample`.
  """
  return sample.sample(
    built.sample,
    ema,
    built.spec.model,
    count=asked.num_samples,
    batch_size=built.spec.evaluate.batch_size,
    seed=EVAL_SEED,
    labels=labels_of(asked.class_counts, EVAL_SEED),
    truncation=truncation,
    rule=rule,
  )


def evaluator_of(spec: RunSpec) -> Evaluator:
  """The evaluator of a run's data at the model's resolution."""
  return open_scores(spec).evaluator()


def open_scores(spec: RunSpec) -> Opened:
  """Opens what a run's scores need, and checks that all can be computed.

  Raises:
    SpecError: names every score that cannot.
  """
  return open_evaluation(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    num_samples=spec.evaluate.num_samples,
    scores=spec.evaluate.scores,
    num_reals=spec.evaluate.num_reals,
    classifier_steps=spec.evaluate.classifier_steps,
    labels=spec.evaluate.labels,
  )
