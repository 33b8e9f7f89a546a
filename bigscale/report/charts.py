"""Draws curves over kimg as inline SVG with matplotlib.

Text and axes have the color of the surrounding page (`currentColor`), so that a
drawing fits light and dark pages. The page shows the legends, because it can
wrap them. Drawings never contain text from the run's files.
"""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure

from bigscale.report.band import Legend, draw_band, draw_marks
from bigscale.report.timeline import Timeline

# Mid-tones with enough contrast to both white and black.
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
# A placeholder color, replaced by `currentColor` in the finished drawing.
_INK = "#0a0b0c"
_STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": _INK,
  "axes.grid": True,
  "axes.labelcolor": _INK,
  "axes.unicode_minus": False,
  "axes.spines.left": False,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.size": 9,
  "grid.alpha": 0.13,
  "grid.color": _INK,
  "grid.linewidth": 0.7,
  "svg.fonttype": "none",
  "text.usetex": False,
  "xaxis.labellocation": "right",
  # Wide enough for the longest tick labels, and equal in all drawings, so that
  # the axes of adjacent drawings are aligned.
  "figure.subplot.left": 0.12,
  "figure.subplot.right": 0.985,
  "figure.subplot.top": 0.965,
  "figure.subplot.bottom": 0.16,
  "figure.subplot.hspace": 0.07,
} | {
  f"{axis}tick.{name}": value
  for axis in "xy"
  for name, value in (("color", _INK), ("major.size", 0))
}
# Size of a drawing in inches; the page scales it.
_WIDTH, _HEIGHT = 5.4, 2.9
# Height of a row of the band, and maximum height of the band, in inches.
_ROW, _BAND = 0.13, 0.7
# A curve with more points is drawn as the means of about `_BINS` bins.
_MOST_POINTS = 400
_BINS = 160
# Curves with at most this many points have markers.
_MARKED_POINTS = 40
_MOST_REMARKS = 6
# Larger values overflow matplotlib's arithmetic for the axis.
_GREATEST = 1e300
# A value above this multiple of the median would hide the others on a linear
# axis.
_EXTREME = 1e3
# Margin above and below the curves as a fraction of their height. The second
# is used if abandoned curves leave the range of the others.
_MARGIN, _WIDE_MARGIN = 0.05, 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  """A curve over kimg.

  Attributes:
    label: text in the legend.
    color: color as "#rrggbb".
    x: kimg of each point.
    y: value of each point. Non-finite values leave gaps.
    faint: whether the curve was abandoned by a rollback. It is then drawn in
      the background.
    rank: 0 for a main curve. Curves of higher rank are lighter, have no min-max
      band, and are not in the legend.
  """

  label: str
  color: str
  x: Sequence[float]
  y: Sequence[float]
  faint: bool = False
  rank: int = 0

  @property
  def finite(self) -> list[float]:
    """Values that can be drawn."""
    return [y for y in self.y if abs(y) < _GREATEST]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """A horizontal reference line."""

  label: str
  color: str
  y: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
  """A drawing with its title, legend and remark.

  Attributes:
    title: quantity on the vertical axis.
    svg: the drawing, an `<svg>` element.
    legend: (label, color, CSS border style) of each curve and level.
    remark: sentences about values that the drawing does not show, or "".
    thinned: whether curves show means and min-max bands instead of all points.
  """

  title: str
  svg: str
  legend: Legend
  remark: str
  thinned: bool


def blue_to_red(count: int) -> list[str]:
  """Returns a sequence of colors from blue to red."""
  hues = 0.62 * np.linspace(1, 0, count)
  return [to_hex(hsv_to_rgb((hue, 0.72, 0.82))) for hue in hues]


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

  If a curve has too many points, it is drawn as the means of bins, with a band
  from the minimum to the maximum of each bin.

  Args:
    title: quantity on the vertical axis.
    lines: the curves.
    levels: horizontal reference lines.
    scale: "linear" or "log". "log" requires positive values, else the axis is
      linear. A linear axis becomes logarithmic at its ends if there are extreme
      values.
    timeline: timeline of the monitor, for marks of alarms and healthy states.
    band: whether to draw the verdicts of the timeline below the curves.
  """
  attempts = timeline.attempts if band and timeline else []
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
    figure, axes, below = _canvas(len(attempts))
    kept = [line for line in lines if not line.faint]
    abandoned = [line for line in lines if line.faint]
    thinned = [_draw_line(axes, line) for line in kept]
    for level in levels:
      axes.axhline(level.y, color=level.color, linewidth=1.2, linestyle="--")
    remark = _set_y_axis(axes, scale, kept, abandoned, levels)
    thinned += [_draw_line(axes, line) for line in abandoned]
    legend = _legend(lines, levels)
    if timeline:
      legend += draw_marks(axes, timeline)
    if attempts:
      legend += draw_band(below, timeline, _INK)
    svg = _svg(figure)
  return Chart(
    title=title,
    svg=svg,
    legend=legend,
    remark=" ".join(filter(None, (_gaps(lines), remark))),
    thinned=any(thinned),
  )


def _canvas(rows: int) -> tuple[Figure, Axes, Axes | None]:
  """Returns a figure, the axes of the curves and the axes of the band.

  Args:
    rows: number of rows of the band. With 0 there is no band.
  """
  band = min(rows * _ROW, _BAND)
  figure = Figure(figsize=(_WIDTH, _HEIGHT + band))
  shares = [_HEIGHT, band] if rows else [_HEIGHT]
  column = figure.subplots(
    len(shares), sharex=True, squeeze=False, height_ratios=shares
  )
  axes, *below = column[:, 0]
  for each in below:
    each.grid(visible=False)
  for each in (axes, *below):
    each.spines.bottom.set_alpha(0.4)
    each.xaxis.set_major_formatter("{x:,g}")
  column[-1, 0].set_xlabel("kimg", labelpad=1)
  return figure, axes, below[0] if below else None


def _svg(figure: Figure) -> str:
  drawing = io.StringIO()
  omitted = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(drawing, format="svg", transparent=True, metadata=omitted)
  svg = drawing.getvalue().replace(_INK, "currentColor")
  return svg[svg.index("<svg") :]


def _draw_line(axes: Axes, line: Line) -> bool:
  """Draws one curve and returns whether it was thinned."""
  x, mean, least, most = _thin(line.x, line.y)
  thinned = len(x) < len(line.x)
  background = line.faint or line.rank > 0
  # A line through a single point is invisible without a marker.
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
    zorder=1.9 if line.faint else 2,
  )
  if thinned and not line.rank:
    axes.fill_between(x, least, most, color=line.color, alpha=0.18, linewidth=0)
  # Extend the x axis to the last row even if its value is not finite, so that
  # all drawings of a run have the same range.
  axes.update_datalim([(line.x[0], 0), (line.x[-1], 0)], updatey=False)
  axes.autoscale_view(scaley=False)
  return thinned


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any, Any, Any]:
  """Returns kimg, mean, minimum and maximum of bins with equally many points.

  A curve with few points is returned unchanged.
  """
  y_n = np.asarray(y, np.float64)
  y_n = np.ma.masked_where(~(np.abs(y_n) < _GREATEST), y_n)
  x_n = np.asarray(x, np.float64)
  if len(x_n) <= _MOST_POINTS:
    return x_n, y_n, y_n, y_n
  per_bin = -(-len(x_n) // _BINS)
  padding = -len(x_n) % per_bin
  x_bp = np.pad(x_n, (0, padding), mode="edge").reshape(-1, per_bin)
  y_bp = np.ma.concatenate([y_n, np.ma.masked_all(padding)])
  y_bp = y_bp.reshape(-1, per_bin)
  return x_bp.mean(1), y_bp.mean(1), y_bp.min(1), y_bp.max(1)


def _set_y_axis(
  axes: Axes,
  scale: str,
  kept: Sequence[Line],
  abandoned: Sequence[Line],
  levels: Sequence[Level],
) -> str:
  """Sets scale and limits of the axis to show the kept curves well.

  The kept curves are already drawn. Abandoned curves are cut off if they would
  make the kept ones too small.

  Returns:
    A remark for the reader, or "".
  """
  values = [y for line in kept for y in line.finite]
  values += [level.y for level in levels if abs(level.y) < _GREATEST]
  lost = [y for line in abandoned for y in line.finite]
  if not values:
    values, lost = lost, []
    axes.update_datalim([(0, y) for y in values], updatex=False)
  if not values:
    return ""
  remark, low, high = "", min(values), max(values)
  # matplotlib would zoom in on the rounding errors of a constant.
  if low == high > 0 and not levels:
    axes.set_ylim(0, 1.25 * high)
  elif scale == "log" and low > 0:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_log_locator(math.log10(high / low)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
  else:
    remark = _make_ends_logarithmic(axes, values)
  axes.yaxis.set_major_formatter("{x:,g}")
  axes.margins(y=_MARGIN)
  if not _within(lost, axes.get_ylim()):
    # Shows in which direction the abandoned curve leaves.
    axes.margins(y=_WIDE_MARGIN)
  axes.set_ylim(axes.get_ylim())
  if not _within(lost, axes.get_ylim()):
    ends = sorted({min(lost), max(lost)})
    span = " to ".join(f"{y:,.4g}" for y in ends)
    remark += f" Abandoned curves extend beyond the axis: {span}."
  return remark.strip()


def _within(values: Sequence[float], limits: tuple[float, float]) -> bool:
  return not values or (limits[0] <= min(values) and max(values) <= limits[1])


def _log_locator(decades: float) -> ticker.Locator:
  """Returns the tick locator for a log axis that spans some decades."""
  subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
  if decades < 0.9:
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
  return ticker.LogLocator(subs=subs, numticks=12)


def _make_ends_logarithmic(axes: Axes, values: Sequence[float]) -> str:
  """Makes a linear axis logarithmic at its ends if there are extreme values.

  Returns:
    A remark for the reader, or "".
  """
  usual, greatest = float(np.median(np.abs(values))), max(map(abs, values))
  if usual == 0 or greatest <= _EXTREME * usual:
    return ""
  threshold = 10.0 ** math.ceil(math.log10(usual))
  # The linear part gets about a third of the height.
  linscale = max(1.0, 0.5 * math.log10(greatest / threshold))
  axes.set_yscale("symlog", linthresh=threshold, linscale=linscale)
  locator = ticker.SymmetricalLogLocator(linthresh=threshold, base=10)
  locator.set_params(numticks=7)
  axes.yaxis.set_major_locator(locator)
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  return f"Beyond ±{threshold:,g} the axis is logarithmic."


def _legend(lines: Sequence[Line], levels: Sequence[Level]) -> Legend:
  legend = [
    (line.label, line.color, "solid")
    for line in lines
    if not line.faint and not line.rank
  ]
  legend += [(level.label, level.color, "dashed") for level in levels]
  if any(line.faint for line in lines):
    legend.append(("abandoned by a rollback", "currentColor", "dotted"))
  return legend


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
