"""Which curves a run's page shows, in which order."""

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
  draw,
  spread,
)
from bigscale.report.distance import distance_of
from bigscale.report.read import Run, series
from bigscale.report.timeline import Timeline, timeline

NETWORKS = {"g": "generator", "d": "discriminator"}

# Title, scale of the vertical axis, scalars.
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
  ("Diversity of samples over that of reals", "log", ("g/diversity",)),
  (
    "Effective rank of samples over that of reals",
    "log",
    ("g/effective_rank",),
  ),
  ("Samples from reals, in pixels", "log", ("g/pixel_distance",)),
  (
    "D tells held-out reals from seen ones (r_v)",
    "linear",
    ("d/heldout_gap",),
  ),
  ("Moving average from G's weights", "log", ("ema/distance",)),
)
# The layers of a network that are named.
_NAMED_LAYERS = 6
_REST_COLOR = "#8a8f98"
_SHARE = "eval/class_share/"
_SIGMA = re.compile(r"([gd])/sigma(\d+)/(.+)")


def distance_chart(run: Run) -> Chart | None:
  """The run's Fréchet distance among the numbers to compare it with."""
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
  """What share of the samples the classifier takes for each class."""
  names = [name for name in run.names() if name.startswith(_SHARE)]
  labels = [name.removeprefix(_SHARE) for name in names]
  lines = _lines(run, names, labels, spread(len(names)))
  return draw("Share of each class among samples", lines) if lines else None


def training_charts(run: Run) -> Iterator[Chart]:
  """Losses above the monitor's verdict, logits, penalties and norms."""
  return _panels(run, _PANELS, banded="Losses")


def signal_charts(run: Run) -> Iterator[Chart]:
  """What the monitor looks at besides: samples, held-out reals, the EMA."""
  return _panels(run, _SIGNALS)


def _panels(
  run: Run,
  panels: tuple[tuple[str, str, tuple[str, ...]], ...],
  banded: str | None = None,
) -> Iterator[Chart]:
  seen = timeline(run)
  for title, scale, names in panels:
    lines = _lines(run, names, names, PALETTE)
    if lines:
      yield draw(title, lines, scale=scale, timeline=seen, band=title == banded)


def singular_value_charts(run: Run) -> Iterator[Chart]:
  """A panel for each network: the layers that changed most are named.

  Of these all ranks that were logged, the second and third lighter; of the
  other layers the largest, in grey.
  """
  found: dict[str, dict[str, dict[int, str]]] = collections.defaultdict(
    lambda: collections.defaultdict(dict)
  )
  for name in run.names():
    match = _SIGMA.fullmatch(name)
    if match:
      found[match[1]][match[3]][int(match[2])] = name
  seen = timeline(run)
  for network in sorted(found, reverse=True):
    yield _singular_values(run, network, found[network], seen)


def _singular_values(
  run: Run,
  network: str,
  layers: dict[str, dict[int, str]],
  seen: Timeline | None,
) -> Chart:
  ranked = sorted(
    layers, key=lambda layer: _growth(run, min(layers[layer].items())[1])
  )
  # Those that changed least first, so that the others are drawn over them.
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
  title = f"Singular values, {NETWORKS[network]}: largest, others lighter"
  chart = draw(title, lines, scale="log", timeline=seen)
  if rest:
    label = f"the largest of {len(rest)} layers that changed less"
    chart.legend.insert(len(named), (label, _REST_COLOR, "solid"))
  return chart


def _growth(run: Run, name: str) -> float:
  """How far a value went from its median in the first half, as |log|."""
  _, y = series(run.all_rows, name)
  if any(not math.isfinite(value) for value in y):
    return math.inf
  half = len(y) // 2
  early, late = y[: half or 1], [value for value in y[half:] if value > 0]
  usual = statistics.median(early)
  if usual <= 0:
    return 0.0
  return max((abs(math.log(value / usual)) for value in late), default=0.0)


def other_charts(run: Run, belongs: Callable[[str], bool]) -> Iterator[Chart]:
  """One panel for each scalar that `belongs` and no other panel shows."""
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
  """Curves of the scalars that were logged; what was given up lies behind."""
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
