"""Curves as inline SVG.

Text and axes take the colour of the page around them (`currentColor`), so one
drawing serves light and dark pages. Legends are left to the page, which can
wrap them. Nothing of the run is ever drawn as text.
"""

import colorsys
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bigscale.report.axes import GREATEST, INK, dress, fit
from bigscale.report.band import draw_band, draw_marks, legend_of
from bigscale.report.timeline import Timeline

# Mid-tones that stand out from white and from black alike.
PALETTE = (
  "#3987d6",
  "#e0742f",
  "#2fa36b",
  "#d0506f",
  "#8f6fd1",
  "#a3814a",
  "#25a3ad",
  "#c45bb5",
)
REFERENCE_COLORS = ("#2fa36b", "#d0506f", "#a3814a", "#8f6fd1", "#25a3ad")

# Inches of 72 points; the page stretches it.
_SIZE = (5.4, 2.9)
# Inches of the monitor's band: of a row, at most of all, and above it.
_ROW, _BAND, _GAP = 0.13, 0.7, 0.07
# Shares of the figure. Wide enough for the longest numbers, and the same for
# all, so that the axes of neighbours line up.
_MARGINS = {"left": 0.11, "right": 0.985, "top": 0.965, "bottom": 0.16}
# More points than the first are drawn as about as many stretches as the second.
_MOST_POINTS = 400
_STRETCHES = 160
_MARKED_POINTS = 40
_MOST_REMARKS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  """A curve over kimg.

  Attributes:
    label: for the legend.
    color: "#rrggbb".
    x: kimg.
    y: values; those that are not finite leave gaps.
    faint: draw it in the background: given up by a rollback.
    rank: 0 for what the drawing is about; those above are drawn lighter,
      without a band of their own, and are not in the legend.
  """

  label: str
  color: str
  x: Sequence[float]
  y: Sequence[float]
  faint: bool = False
  rank: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """A horizontal line to compare with."""

  label: str
  color: str
  y: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
  """A drawing and what the page says beside it.

  Attributes:
    title: what the vertical axis shows.
    svg: an `<svg>` element.
    legend: (label, colour, CSS border style) of each curve and level.
    remark: a sentence about what the drawing cannot show, or "".
    thinned: whether curves are means and bands instead of all points.
  """

  title: str
  svg: str
  legend: list[tuple[str, str, str]]
  remark: str
  thinned: bool


def spread(count: int) -> list[str]:
  """`count` colours in an order the eye can follow, first blue, last red."""
  colors = []
  for i in range(count):
    hue = 0.62 * (1 - i / max(count - 1, 1))
    rgb = colorsys.hls_to_rgb(hue, 0.52, 0.62)
    colors.append("#" + "".join(f"{round(255 * part):02x}" for part in rgb))
  return colors


def draw(
  title: str,
  lines: Sequence[Line],
  levels: Sequence[Level] = (),
  *,
  scale: str = "linear",
  timeline: Timeline | None = None,
  band: bool = False,
) -> Chart:
  """Draws curves over kimg.

  Args:
    title: what the vertical axis shows.
    lines: the curves.
    levels: horizontal lines.
    scale: "linear", or "log" where all values allow it. Values far beyond the
      rest make a linear axis logarithmic at its ends.
    timeline: of the monitor, whose alarms and healthy states are marked.
    band: whether its verdict is drawn below, too.

  Returns:
    The drawing. Where there are too many points to draw, each stretch of
    them is drawn as its mean within the band from its least to its greatest.
  """
  rc = {
    "svg.fonttype": "none",
    "svg.hashsalt": title,
    "font.size": 9,
    "text.usetex": False,
  }
  below = timeline if band and timeline and timeline.stretches else None
  with matplotlib.rc_context(rc):
    figure, axes, strip = _canvas(len(below.attempts) if below else 0)
    thinned = False
    for line in lines:
      thinned |= _draw_line(axes, line)
    _reach(axes, lines)
    for level in levels:
      axes.axhline(level.y, color=level.color, linewidth=1.2, linestyle="--")
    if timeline:
      draw_marks(axes, timeline)
    told = fit(axes, scale, *_finite(lines, levels))
    if not levels:
      _steady(axes, lines)
    dress(axes)
    if below:
      draw_band(strip, below, INK)
      dress(strip)
      strip.grid(visible=False)
      axes.tick_params(labelbottom=False)
    (strip or axes).set_xlabel("kimg", color=INK, loc="right", labelpad=1)
    drawing = io.StringIO()
    figure.savefig(
      drawing,
      format="svg",
      transparent=True,
      metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
  svg = drawing.getvalue().replace(INK, "currentColor")
  return Chart(
    title=title,
    svg=svg[svg.index("<svg") :],
    legend=_legend(lines, levels, timeline, below is not None),
    remark=" ".join(filter(None, (_gaps(lines), told))),
    thinned=thinned,
  )


def _canvas(attempts: int) -> tuple[Figure, Any, Any]:
  """A figure, the axes of its curves, and those of a band with some rows."""
  width, height = _SIZE
  if not attempts:
    figure = Figure(figsize=_SIZE)
    return figure, figure.subplots(gridspec_kw=_MARGINS), None
  band = min(attempts * _ROW, _BAND)
  total = height + band + _GAP
  figure = Figure(figsize=(width, total))
  margins = _MARGINS | {
    "top": 1 - (1 - _MARGINS["top"]) * height / total,
    "bottom": _MARGINS["bottom"] * height / total,
  }
  curves = (_MARGINS["top"] - _MARGINS["bottom"]) * height
  axes, strip = figure.subplots(
    2,
    sharex=True,
    gridspec_kw=margins
    | {
      "height_ratios": (curves, band),
      "hspace": 2 * _GAP / (curves + band),
    },
  )
  return figure, axes, strip


def _legend(
  lines: Sequence[Line],
  levels: Sequence[Level],
  timeline: Timeline | None,
  band: bool,
) -> list[tuple[str, str, str]]:
  entries = [
    (line.label, line.color, "solid")
    for line in lines
    if not line.faint and not line.rank
  ]
  entries += [(level.label, level.color, "dashed") for level in levels]
  if any(line.faint for line in lines):
    entries.append(("given up by a rollback", "currentColor", "dotted"))
  return entries + (legend_of(timeline, band) if timeline else [])


def _finite(
  lines: Sequence[Line], levels: Sequence[Level]
) -> tuple[list[float], list[float]]:
  """Values that the axis is made for, and those that were given up."""
  kept, given_up = (
    [y for a in lines if a.faint == faint for y in a.y if abs(y) < GREATEST]
    for faint in (False, True)
  )
  return kept + [a.y for a in levels if abs(a.y) < GREATEST], given_up


def _reach(axes: Any, lines: Sequence[Line]) -> None:
  """Gives all drawings of a run the same horizontal axis.

  Values that are not finite at its end would else shorten it.
  """
  x = [x for line in lines for x in line.x]
  if x:
    axes.update_datalim([(min(x), 0.0), (max(x), 0.0)], updatey=False)
    axes.autoscale_view(scaley=False)


def _draw_line(axes: Any, line: Line) -> bool:
  """Draws one curve; says whether it was thinned."""
  x, mean, least, most = _thin(line.x, line.y)
  thinned = len(x) < len(line.x)
  background = line.faint or line.rank > 0
  # A single point would not be seen without.
  marked = np.ma.count(mean) <= (1 if background else _MARKED_POINTS)
  axes.plot(
    x,
    mean,
    color=line.color,
    linewidth=1.0 if background else 1.5,
    linestyle=":" if line.faint else "-",
    alpha=(0.8 if line.faint else 1.0) * 0.6**line.rank,
    marker="o" if marked else "",
    markersize=3,
  )
  if thinned and not line.rank:
    axes.fill_between(x, least, most, color=line.color, alpha=0.18, linewidth=0)
  return thinned


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any, Any, Any]:
  """Kimg, mean, least and greatest of stretches of equally many points."""
  y_n = np.asarray(y, np.float64)
  y_n = np.ma.masked_where(~(np.abs(y_n) < GREATEST), y_n)
  x_n = np.asarray(x, np.float64)
  if len(x_n) <= _MOST_POINTS:
    return x_n, y_n, y_n, y_n
  per_stretch = -(-len(x_n) // _STRETCHES)
  padding = -len(x_n) % per_stretch
  x_sp = np.pad(x_n, (0, padding), mode="edge").reshape(-1, per_stretch)
  y_sp = np.ma.concatenate([y_n, np.ma.masked_all(padding)])
  y_sp = y_sp.reshape(-1, per_stretch)
  return x_sp.mean(1), y_sp.mean(1), y_sp.min(1), y_sp.max(1)


def _steady(axes: Any, lines: Sequence[Line]) -> None:
  """Gives an axis from 0 to curves that never leave one positive value.

  Left alone, the axis would spread its round-off over the whole height.
  """
  values = {y for line in lines for y in line.y if math.isfinite(y)}
  if axes.get_yscale() == "linear" and len(values) == 1 and min(values) > 0:
    axes.set_ylim(0, 1.25 * values.pop())


def _gaps(lines: Sequence[Line]) -> str:
  parts = []
  for line in lines:
    gaps = [
      x for x, y in zip(line.x, line.y, strict=True) if not math.isfinite(y)
    ]
    if gaps:
      parts.append(f"{line.label} at {gaps[0]:,g} kimg ({len(gaps)} rows)")
  if len(parts) > _MOST_REMARKS:
    parts[_MOST_REMARKS:] = [f"{len(parts) - _MOST_REMARKS} more"]
  return f"Not finite: {'; '.join(parts)}." if parts else ""
