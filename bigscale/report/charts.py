"""Curves over kimg as inline SVG, drawn by matplotlib.

Text and axes take the colour of the page around them (`currentColor`), so one
drawing serves light and dark pages. Legends are left to the page, which can
wrap them. Nothing of the run is ever drawn as text.
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
# An unlikely colour that the finished drawing swaps for the page's own.
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
  # Wide enough for the longest numbers, and the same for all, so that the axes
  # of neighbours line up.
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
# Inches of 72 points; the page stretches it. Of the band: a row, all at most.
_WIDTH, _HEIGHT, _ROW, _BAND = 5.4, 2.9, 0.13, 0.7
# More points than the first are drawn as about as many stretches as the second.
_MOST_POINTS = 400
_STRETCHES = 160
_MARKED_POINTS = 40
_MOST_REMARKS = 6
# Beyond, matplotlib's arithmetic on the axis itself overflows.
_GREATEST = 1e300
# Times the median beyond which a linear axis would hide all that came before.
_EXTREME = 1e3
# Shares of the height beyond the curves; the second where some were given up.
_MARGIN, _ROOM = 0.05, 0.4


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

  @property
  def finite(self) -> list[float]:
    """The values that can be drawn."""
    return [y for y in self.y if abs(y) < _GREATEST]


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
  legend: Legend
  remark: str
  thinned: bool


def spread(count: int) -> list[str]:
  """Returns colours in an order the eye can follow, first blue, last red."""
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
  attempts = timeline.attempts if band and timeline else []
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
    figure, axes, below = _canvas(len(attempts))
    kept = [line for line in lines if not line.faint]
    given_up = [line for line in lines if line.faint]
    thinned = [_draw_line(axes, line) for line in kept]
    for level in levels:
      axes.axhline(level.y, color=level.color, linewidth=1.2, linestyle="--")
    told = _set_y_axis(axes, scale, kept, given_up, levels)
    thinned += [_draw_line(axes, line) for line in given_up]
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
    remark=" ".join(filter(None, (_gaps(lines), told))),
    thinned=any(thinned),
  )


def _canvas(rows: int) -> tuple[Figure, Axes, Axes | None]:
  """Returns a figure, the axes of curves, and those of a band of some rows."""
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
  unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(drawing, format="svg", transparent=True, metadata=unsaid)
  svg = drawing.getvalue().replace(_INK, "currentColor")
  return svg[svg.index("<svg") :]


def _draw_line(axes: Axes, line: Line) -> bool:
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
    zorder=1.9 if line.faint else 2,
  )
  if thinned and not line.rank:
    axes.fill_between(x, least, most, color=line.color, alpha=0.18, linewidth=0)
  # All drawings of a run reach as far, though their last values be no numbers.
  axes.update_datalim([(line.x[0], 0), (line.x[-1], 0)], updatey=False)
  axes.autoscale_view(scaley=False)
  return thinned


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any, Any, Any]:
  """Returns kimg, mean, least and greatest of stretches of as many points."""
  y_n = np.asarray(y, np.float64)
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


def _set_y_axis(
  axes: Axes,
  scale: str,
  kept: Sequence[Line],
  given_up: Sequence[Line],
  levels: Sequence[Level],
) -> str:
  """Makes the axis for what was kept, which is drawn already, and fixes it.

  What was given up leaves the picture where it would make the rest of it too
  small to be seen.

  Returns:
    What the reader has to be told, as sentences, or "".
  """
  values = [y for line in kept for y in line.finite]
  values += [level.y for level in levels if abs(level.y) < _GREATEST]
  lost = [y for line in given_up for y in line.finite]
  if not values:
    values, lost = lost, []
    axes.update_datalim([(0, y) for y in values], updatex=False)
  if not values:
    return ""
  remark, low, high = "", min(values), max(values)
  # Left alone, the axis of a constant would be of its round-off.
  if low == high > 0 and not levels:
    axes.set_ylim(0, 1.25 * high)
  elif scale == "log" and low > 0:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_log_locator(math.log10(high / low)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
  else:
    remark = _bend(axes, values)
  axes.yaxis.set_major_formatter("{x:,g}")
  axes.margins(y=_MARGIN)
  if not _within(lost, axes.get_ylim()):
    # Room to see where it went.
    axes.margins(y=_ROOM)
  axes.set_ylim(axes.get_ylim())
  if not _within(lost, axes.get_ylim()):
    ends = sorted({min(lost), max(lost)})
    span = " to ".join(f"{y:,.4g}" for y in ends)
    remark += f" Given up, and partly out of the picture: {span}."
  return remark.strip()


def _within(values: Sequence[float], limits: tuple[float, float]) -> bool:
  return not values or (limits[0] <= min(values) and max(values) <= limits[1])


def _log_locator(decades: float) -> ticker.Locator:
  """Returns which numbers an axis of some decades names."""
  subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
  if decades < 0.9:
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
  return ticker.LogLocator(subs=subs, numticks=12)


def _bend(axes: Axes, values: Sequence[float]) -> str:
  """Makes a linear axis logarithmic at its ends where values need it."""
  usual, greatest = float(np.median(np.abs(values))), max(map(abs, values))
  if usual == 0 or greatest <= _EXTREME * usual:
    return ""
  threshold = 10.0 ** math.ceil(math.log10(usual))
  # What is usual gets about a third of the height.
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
    legend.append(("given up by a rollback", "currentColor", "dotted"))
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
