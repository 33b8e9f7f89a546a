"""Which curves a run's page shows, in which order."""

import collections
import re
from collections.abc import Callable, Iterator

from bigscale.report.charts import (
  PALETTE,
  REFERENCE_COLORS,
  Chart,
  Level,
  Line,
  draw,
  spread,
)
from bigscale.report.read import Run, series

DISTANCE = "eval/fd_classifier"
REFERENCE_LABELS = {
  "fd_classifier_floor": "held-out reals (floor)",
  "fd_classifier_floor_halves": "two halves of the reals",
  "fd_class_means_noise": "baseline: class means + noise",
  "fd_blurred_reals": "baseline: blurred reals",
}
NETWORKS = {"g": "generator", "d": "discriminator"}

# Title, scale of the vertical axis, scalars.
_PANELS = (
  ("Losses", "linear", ("g/loss", "d/loss", "d/loss_real", "d/loss_fake")),
  ("Logits of D", "linear", ("d/logit_real", "d/logit_fake")),
  ("Penalties", "log", ("d/r1", "d/r2", "g/ortho")),
  ("Gradient norms", "log", ("g/grad_norm", "d/grad_norm")),
)
_SHARE = "eval/class_share/"
_SIGMA = re.compile(r"([gd])/sigma(\d+)/(.+)")


def distance_chart(run: Run) -> Chart | None:
  """The Fréchet classifier distance among the numbers to compare it with."""
  lines = _lines(run, [DISTANCE], ["generated samples"], PALETTE)
  if not lines:
    return None
  found = {k: v for k, v in run.reference.items() if k.startswith("fd_")}
  known = [name for name in REFERENCE_LABELS if name in found]
  others = [name for name in found if name not in REFERENCE_LABELS]
  colors = REFERENCE_COLORS * (1 + len(found) // len(REFERENCE_COLORS))
  levels = [
    Level(label=REFERENCE_LABELS.get(name, name), color=color, y=found[name])
    for name, color in zip([*known, *others], colors, strict=False)
  ]
  return draw("Fréchet classifier distance", lines, levels, scale="log")


def class_share_chart(run: Run) -> Chart | None:
  """What share of the samples the classifier takes for each class."""
  names = [name for name in run.names() if name.startswith(_SHARE)]
  labels = [name.removeprefix(_SHARE) for name in names]
  lines = _lines(run, names, labels, spread(len(names)))
  return draw("Share of each class among samples", lines) if lines else None


def training_charts(run: Run) -> Iterator[Chart]:
  """Losses, logits, penalties and gradient norms."""
  for title, scale, names in _PANELS:
    lines = _lines(run, names, names, PALETTE)
    if lines:
      yield draw(title, lines, scale=scale)


def singular_value_charts(run: Run) -> Iterator[Chart]:
  """One panel for each network and rank, one curve for each layer."""
  layers = collections.defaultdict(list)
  for name in run.names():
    match = _SIGMA.fullmatch(name)
    if match:
      layers[match[2], match[1]].append((name, match[3]))
  for rank, network in sorted(
    layers, key=lambda key: (int(key[0]), -ord(key[1]))
  ):
    names, labels = zip(*layers[rank, network], strict=True)
    lines = _lines(run, names, labels, spread(len(names)))
    which = "Largest" if rank == "0" else f"Number {int(rank) + 1}"
    yield draw(f"{which}, {NETWORKS[network]}", lines, scale="log")


def other_charts(run: Run, belongs: Callable[[str], bool]) -> Iterator[Chart]:
  """One panel for each scalar that `belongs` and no other panel shows."""
  shown = {name for _, _, names in _PANELS for name in names} | {DISTANCE}
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
) -> list[Line]:
  """Curves of the scalars that were logged; what was given up lies behind."""
  faint, lines = [], []
  for name, label, color in zip(names, labels, colors, strict=False):
    x, y = run.series(name)
    if x:
      lines.append(Line(label=label, color=color, x=x, y=y))
    for rows in run.abandoned:
      x, y = series(rows, name)
      if x:
        faint.append(Line(label=label, color=color, x=x, y=y, faint=True))
  return [*faint, *lines]
