"""What happens beside the steps: rows, grids, scores, checkpoints."""

import collections
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from bigscale.metrics.evaluate import Evaluator, make_evaluator
from bigscale.parallel import multihost
from bigscale.sampling import grid, sample
from bigscale.spec import RunSpec
from bigscale.train.build import Built
from bigscale.train.folder import RunFolder
from bigscale.train.logging import JsonLines, Progress, TensorBoard
from bigscale.train.state import Average
from bigscale.train.step import Scalars

# Fixed latents of the grids and of evaluations, apart from those of training.
GRID_SEED = 1
EVAL_SEED = 2


class DivergedError(RuntimeError):
  """A loss is no longer a finite number."""


class Recorder:
  """Writes rows of metrics, one step late so that nobody waits for a step."""

  def __init__(self, folder: RunFolder, spec: RunSpec, first_step: int) -> None:
    self._spec = spec
    self._main = multihost.is_main()
    self._pending: tuple[int, Scalars] | None = None
    self._data_wait = 0.0
    self._clock = time.perf_counter()
    self._clock_step = first_step
    self._started = time.time()
    if not self._main:
      return
    self._metrics = JsonLines(folder.metrics)
    self._events = JsonLines(folder.events)
    self._metrics.truncate_after(first_step)
    self._progress = Progress(spec.total_steps, first_step)
    self._tensorboard = (
      TensorBoard(folder.path / "tensorboard") if spec.log.tensorboard else None
    )

  def step(self, step: int, scalars: Scalars, data_wait: float) -> None:
    """Takes the scalars of the step just dispatched; writes the last ones."""
    self.flush()
    self._data_wait += data_wait
    if step % self._spec.log.steps == 0 or step == self._spec.total_steps:
      self._pending = (step, scalars)

  def flush(self) -> None:
    """Writes what is pending.

    Raises:
      DivergedError: a loss is not finite.
    """
    if self._pending is None:
      return
    step, scalars = self._pending
    self._pending = None
    values = {name: float(x) for name, x in jax.device_get(scalars).items()}
    now = time.perf_counter()
    steps, seconds = step - self._clock_step, now - self._clock
    values["perf/images_per_second"] = (
      steps * self._spec.images_per_step / seconds
    )
    values["perf/data_wait"] = self._data_wait / seconds
    self._clock, self._clock_step, self._data_wait = now, step, 0.0
    self.row(step, values)
    if self._main:
      self._progress.update(step, values)
    bad = [k for k in ("d/loss", "g/loss") if not math.isfinite(values[k])]
    if bad:
      raise DivergedError(
        f"{bad[0]} is {values[bad[0]]} at step {step}; the newest checkpoint "
        "is from before it"
      )

  def row(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row to every log."""
    if not self._main:
      return
    self._metrics.write(
      {
        "step": step,
        "kimg": step * self._spec.images_per_step / 1000,
        "seconds": round(time.time() - self._started, 3),
        "attempt": 0,
        **values,
      }
    )
    if self._tensorboard:
      self._tensorboard.scalars(step, values)

  def event(self, kind: str, step: int, **fields: Any) -> None:
    """Writes what is not a step's number."""
    if self._main:
      self._events.write(
        {"event": kind, "step": step, "time": time.time(), **fields}
      )

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
    """Flushes files. Pending rows are dropped: they belong to a lost step."""
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


class Evaluation:
  """Scores the moving average against the run's own data."""

  def __init__(self, built: Built, recorder: Recorder) -> None:
    self._built = built
    self._recorder = recorder
    self._evaluator: Evaluator | None = None
    self._reference: dict[str, Any] | None = None

  def run(self, step: int, ema: Average) -> dict[str, float]:
    """Draws, scores and writes one row.

    All processes draw, since the weights may lie on all of them; process 0
    alone has features, reads the reals and scores.

    Returns:
      Scores by name, without the prefix `eval/`.
    """
    spec = self._built.spec
    if self._reference is None:
      # Before the first draw: who waits in a collective may time out.
      self._reference = multihost.decide("reference", self._prepare)
      self._recorder.event("reference", step, **self._reference)
    drawn = sample.sample(
      self._built.sample,
      ema,
      spec.model,
      count=spec.evaluate.num_samples,
      batch_size=spec.evaluate.batch_size,
      seed=EVAL_SEED,
    )
    if not multihost.is_main():
      collections.deque(drawn, maxlen=0)
    scores = multihost.decide("scores", lambda: self._evaluator.score(drawn))
    self._recorder.row(step, {f"eval/{k}": v for k, v in scores.items()})
    logging.info("step %d: %s", step, json.dumps(scores))
    return scores

  def _prepare(self) -> dict[str, Any]:
    """Makes the evaluator, and gives what it compares with."""
    self._evaluator = evaluator_of(self._built.spec)
    return self._evaluator.reference


def evaluator_of(spec: RunSpec) -> Evaluator:
  """The evaluator of a run's data at the model's resolution."""
  return make_evaluator(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    num_samples=spec.evaluate.num_samples,
    classifier_steps=spec.evaluate.classifier_steps,
  )
