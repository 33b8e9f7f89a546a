"""Chooses the curves of a run's page and their order."""

import collections
import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterator

from bigscale.report.charts import (
  PALETTE,
  Chart,
  Level,
  Line,
  blue_to_red,
  draw,
)
from bigscale.report.distance import distance_of
from bigscale.report.read import Run, series
from bigscale.report.timeline import Timeline, timeline

NETWORKS = {"g": "generator", "d": "discriminator"}

# (title, scale of the vertical axis, scalars) of each chart.
_PANELS = (
  ("Losses", "linear", ("g/loss", "d/loss", "d/loss_real", "d/loss_fake")),
  (
    "Logits of D",
    "linear",
    ("d/logit_real", "d/logit_fake", "d/logit_heldout"),
  ),
  ("Penalties", "log", ("d/r1", "d/r2", "g/ortho")),
  ("Gradient norms", "log", ("g/grad_norm", "d/grad_norm")),
  ("Update norms", "log", ("g/update_norm", "d/update_norm")),
  ("Weight norms", "log", ("g/weight_norm", "d/weight_norm")),
)
_SIGNALS = (
  ("Diversity of samples / diversity of reals", "log", ("g/diversity",)),
  (
    "Effective rank of samples / effective rank of reals",
    "log",
    ("g/effective_rank",),
  ),
  ("Pixel distance of samples to reals", "log", ("g/pixel_distance",)),
  (
    "D separates held-out from training images (r_v)",
    "linear",
    ("d/heldout_gap",),
  ),
  ("Distance of the moving average to G", "log", ("ema/distance",)),
)
# Number of layers per network that get their own color and legend entry.
_NAMED_LAYERS = 6
_REST_COLOR = "#8a8f98"
_SHARE = "eval/class_share/"
_SIGMA = re.compile(r"([gd])/sigma(\d+)/(.+)")


def distance_chart(run: Run) -> Chart | None:
  """Returns the chart of the Fréchet distance, with its reference levels."""
  distance = distance_of(run)
  lines = _lines(run, [distance.scalar], ["generated samples"], PALETTE)
  if not lines:
    return None
  colors = itertools.cycle(PALETTE[2:])
  levels = [
    Level(label=label, color=next(colors), y=value)
    for label, value in distance.levels.items()
  ]
  return draw(distance.title, lines, levels, scale="log")


def class_share_chart(run: Run) -> Chart | None:
  """Returns the chart of the fraction of samples classified as each class."""
  names = [name for name in run.names() if name.startswith(_SHARE)]
  labels = [name.removeprefix(_SHARE) for name in names]
  lines = _lines(run, names, labels, blue_to_red(len(names)))
  return draw("Share of each class in samples", lines) if lines else None


def training_charts(run: Run) -> Iterator[Chart]:
  """Yields the charts of losses, logits, penalties and norms.

  The monitor's verdicts are drawn below the losses.
  """
  return _panels(run, _PANELS, banded="Losses")


def signal_charts(run: Run) -> Iterator[Chart]:
  """Yields the charts of signals that only the monitor computes."""
  return _panels(run, _SIGNALS)


def _panels(
  run: Run,
  panels: tuple[tuple[str, str, tuple[str, ...]], ...],
  banded: str | None = None,
) -> Iterator[Chart]:
  history = timeline(run)
  for title, scale, names in panels:
    lines = _lines(run, names, names, PALETTE)
    if lines:
      yield draw(
        title, lines, scale=scale, timeline=history, band=title == banded
      )


def singular_value_charts(run: Run) -> Iterator[Chart]:
  """Yields a chart of singular values for each network.

  The layers that changed most are drawn in color, with all logged singular
  values. Smaller singular values are lighter. The other layers are drawn in
  gray, with only their largest singular value.
  """
  found: dict[str, dict[str, dict[int, str]]] = collections.defaultdict(
    lambda: collections.defaultdict(dict)
  )
  for name in run.names():
    match = _SIGMA.fullmatch(name)
    if match:
      found[match[1]][match[3]][int(match[2])] = name
  history = timeline(run)
  for network in sorted(found, reverse=True):
    yield _singular_values(run, network, found[network], history)


def _singular_values(
  run: Run,
  network: str,
  layers: dict[str, dict[int, str]],
  history: Timeline | None,
) -> Chart:
  """Returns the chart of one network.

  Args:
    run: the run.
    network: "g" or "d".
    layers: names of the scalars, by layer and by rank of the singular value.
    history: timeline of the monitor.
  """
  ranked = sorted(
    layers, key=lambda layer: _growth(run, min(layers[layer].items())[1])
  )
  # In drawing order: layers that changed more cover those that changed less.
  rest, named = ranked[:-_NAMED_LAYERS], ranked[: -_NAMED_LAYERS - 1 : -1]
  lines = []
  for layer in rest:
    lines += _lines(
      run, [min(layers[layer].items())[1]], [layer], [_REST_COLOR], rank=1
    )
  for layer, color in zip(named, PALETTE, strict=False):
    for rank in sorted(layers[layer], reverse=True):
      label = f"sigma{rank} of {layer}" if rank else layer
      lines += _lines(run, [layers[layer][rank]], [label], [color], rank=rank)
  title = f"Singular values of the {NETWORKS[network]} (smaller ones lighter)"
  chart = draw(title, lines, scale="log", timeline=history)
  if rest:
    label = f"{len(rest)} layers that changed less (largest value only)"
    chart.legend.insert(len(named), (label, _REST_COLOR, "solid"))
  return chart


def _growth(run: Run, name: str) -> float:
  """Returns max |log(value / m)| over the second half of the run.

  m is the median of the first half. A non-finite value counts as infinite
  growth.
  """
  _, y = series(run.all_rows, name)
  if any(not math.isfinite(value) for value in y):
    return math.inf
  half = len(y) // 2
  early, late = y[: half or 1], [value for value in y[half:] if value > 0]
  median = statistics.median(early)
  if median <= 0:
    return 0.0
  return max((abs(math.log(value / median)) for value in late), default=0.0)


def other_charts(run: Run, belongs: Callable[[str], bool]) -> Iterator[Chart]:
  """Yields a chart for each scalar that is in no other chart.

  Args:
    run: the run.
    belongs: returns whether to include a scalar, given its name.
  """
  panels = (*_PANELS, *_SIGNALS)
  shown = {name for _, _, names in panels for name in names}
  shown.add(distance_of(run).scalar)
  for name in run.names():
    if name in shown or _SIGMA.fullmatch(name) or name.startswith(_SHARE):
      continue
    if not belongs(name):
      continue
    lines = _lines(run, [name], [name], PALETTE)
    if lines:
      yield draw(name, lines)


def _lines(
  run: Run,
  names: list[str] | tuple[str, ...],
  labels: list[str] | tuple[str, ...],
  colors: list[str] | tuple[str, ...],
  *,
  rank: int = 0,
) -> list[Line]:
  """Returns the curves of the logged scalars, preceded by abandoned ones."""
  faint, lines = [], []
  for name, label, color in zip(names, labels, colors, strict=False):
    x, y = run.series(name)
    line = Line(label=label, color=color, x=x, y=y, rank=rank)
    if x:
      lines.append(line)
    for rows in run.abandoned:
      x, y = series(rows, name)
      if x:
        faint.append(dataclasses.replace(line, x=x, y=y, faint=True))
  return [*faint, *lines]
