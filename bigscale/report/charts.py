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
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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

# An unlikely colour that the finished drawing swaps for the page's own.
_INK = "#0a0b0c"
# Inches of 72 points; the page stretches it.
_SIZE = (5.4, 2.9)
# Shares of the figure. Wide enough for the longest numbers, and the same for
# all, so that the axes of neighbours line up.
_MARGINS = {"left": 0.11, "right": 0.985, "top": 0.965, "bottom": 0.16}
# More points than the first are drawn as about as many stretches as the second.
_MOST_POINTS = 400
_STRETCHES = 160
_MARKED_POINTS = 40
_GREATEST = 1e300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  """A curve over kimg.

  Attributes:
    label: for the legend.
    color: "#rrggbb".
    x: kimg.
    y: values; those that are not finite leave gaps.
    faint: draw it in the background: given up by a rollback.
  """

  label: str
  color: str
  x: Sequence[float]
  y: Sequence[float]
  faint: bool = False


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
) -> Chart:
  """Draws curves over kimg.

  Args:
    title: what the vertical axis shows.
    lines: the curves.
    levels: horizontal lines.
    scale: "linear", or "log" where all values allow it.

  Returns:
    The drawing. Where there are too many points to draw, each stretch of
    them is drawn as its mean within the band from its least to its greatest.
  """
  if scale == "log" and not _positive(lines, levels):
    scale = "linear"
  rc = {
    "svg.fonttype": "none",
    "svg.hashsalt": title,
    "font.size": 9,
    "text.usetex": False,
  }
  with matplotlib.rc_context(rc):
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots(gridspec_kw=_MARGINS)
    thinned = False
    for line in lines:
      thinned |= _draw_line(axes, line)
    for level in levels:
      axes.axhline(level.y, color=level.color, linewidth=1.2, linestyle="--")
    _dress(axes, scale, None if levels else _constant(lines))
    drawing = io.StringIO()
    figure.savefig(
      drawing,
      format="svg",
      transparent=True,
      metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
  svg = drawing.getvalue().replace(_INK, "currentColor")
  legend = [(a.label, a.color, "solid") for a in lines if not a.faint]
  legend += [(a.label, a.color, "dashed") for a in levels]
  if any(line.faint for line in lines):
    legend.append(("given up by a rollback", "currentColor", "dotted"))
  return Chart(
    title=title,
    svg=svg[svg.index("<svg") :],
    legend=legend,
    remark=_gap_remark(lines),
    thinned=thinned,
  )


def _positive(lines: Sequence[Line], levels: Sequence[Level]) -> bool:
  values = [y for line in lines for y in line.y if math.isfinite(y)]
  values += [level.y for level in levels if math.isfinite(level.y)]
  return bool(values) and min(values) > 0


def _draw_line(axes: Any, line: Line) -> bool:
  """Draws one curve; says whether it was thinned."""
  x, mean, least, most = _thin(line.x, line.y)
  thinned = len(x) < len(line.x)
  marked = np.ma.count(mean) <= _MARKED_POINTS and not line.faint
  axes.plot(
    x,
    mean,
    color=line.color,
    linewidth=1.0 if line.faint else 1.5,
    linestyle=":" if line.faint else "-",
    alpha=0.6 if line.faint else 1.0,
    marker="o" if marked else "",
    markersize=3,
  )
  if thinned:
    axes.fill_between(x, least, most, color=line.color, alpha=0.18, linewidth=0)
  return thinned


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any, Any, Any]:
  """Kimg, mean, least and greatest of stretches of equally many points."""
  y_n = np.asarray(y, np.float64)
  # Beyond the bound, matplotlib's arithmetic on the axis itself overflows.
  y_n = np.ma.masked_where(~(np.abs(y_n) < _GREATEST), y_n)
  x_n = np.asarray(x, np.float64)
  if len(x_n) <= _MOST_POINTS:
    return x_n, y_n, y_n, y_n
  per_stretch = -(-len(x_n) // _STRETCHES)
  padding = -len(x_n) % per_stretch
  x_sp = np.pad(x_n, (0, padding), mode="edge").reshape(-1, per_stretch)
  y_sp = np.ma.concatenate([y_n, np.ma.masked_all(padding)])
  y_sp = y_sp.reshape(-1, per_stretch)
  return x_sp.mean(1), y_sp.mean(1), y_sp.min(1), y_sp.max(1)


def _constant(lines: Sequence[Line]) -> float | None:
  """The one positive value that the curves never leave, if there is one.

  Left alone, the axis would spread its round-off over the whole height.
  """
  values = {y for line in lines for y in line.y if math.isfinite(y)}
  return values.pop() if len(values) == 1 and min(values) > 0 else None


def _dress(axes: Any, scale: str, level: float | None) -> None:
  axes.set_yscale(scale)
  if scale == "linear" and level is not None:
    axes.set_ylim(0, 1.25 * level)
  plain = FuncFormatter(lambda value, _: f"{value:,g}")
  axes.xaxis.set_major_formatter(plain)
  axes.yaxis.set_major_formatter(plain)
  if scale == "log":
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    axes.yaxis.set_major_locator(LogLocator(subs=_marks(decades), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
  axes.set_xlabel("kimg", color=_INK, loc="right", labelpad=1)
  axes.grid(color=_INK, alpha=0.13, linewidth=0.7)
  axes.set_axisbelow(True)
  axes.tick_params(colors=_INK, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == "bottom")
    spine.set_color(_INK)
    spine.set_alpha(0.4)


def _marks(decades: float) -> tuple[float, ...]:
  """Which multiples of powers of ten an axis of some decades names."""
  if decades < 0.9:
    return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
  return (1.0, 2.0, 5.0) if decades < 3 else (1.0,)


def _gap_remark(lines: Sequence[Line]) -> str:
  parts = []
  for line in lines:
    gaps = [
      x for x, y in zip(line.x, line.y, strict=True) if not math.isfinite(y)
    ]
    if gaps:
      parts.append(f"{line.label} at {gaps[0]:,g} kimg ({len(gaps)} rows)")
  return f"Not finite: {'; '.join(parts)}." if parts else ""
