"""Draws the fixed samples of a run: its grids and those that are scored."""

import math
from collections.abc import Iterator

from bigscale.metrics.labels import labels_of
from bigscale.metrics.looking import Asked
from bigscale.parallel import multihost
from bigscale.sampling import grid, sample
from bigscale.spec import TruncationRule
from bigscale.train.build import Built
from bigscale.train.folder import samples_name
from bigscale.train.recorder import Recorder
from bigscale.train.state import Average

# Seeds of the fixed latents of grids and evaluations.
GRID_SEED = 1
EVAL_SEED = 2


def draw_grid(
  built: Built, recorder: Recorder, step: int, ema: Average
) -> None:
  """Writes samples/STEP.png; latents and labels are the same at every step."""
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
  recorder.write(samples_name(step), grid.png(drawn.images, columns, scale))
  recorder.image(step, "samples", grid.grid(drawn.images, columns, scale=scale))


def draw_for_scores(
  built: Built,
  ema: Average,
  asked: Asked,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
) -> Iterator[sample.DrawnSamples]:
  """Generates the samples to score, with the same latents at every call.

  Args:
    built: functions of the run.
    ema: weights of G.
    asked: number of samples and their classes.
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
