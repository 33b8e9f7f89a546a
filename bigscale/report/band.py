"""Draws the monitor's verdicts below a chart, and its marks in the chart."""

from matplotlib.axes import Axes

from bigscale.report.style import LEVEL_COLORS
from bigscale.report.timeline import Timeline

_UNKNOWN_COLOR = "#8a8f98"
_RETURN_COLOR = "#7b5fc9"
# For each kind of mark: label, color, line style in the chart, marker in the
# band.
_MARKS = {
  "alarm": ("alarm", LEVEL_COLORS["rollback"], "dashed", "v"),
  "healthy": ("healthy state saved", LEVEL_COLORS["ok"], "dotted", "D"),
  "changed": ("settings changed", "#3f7fd1", "dashdot", "s"),
}
# (label, color, CSS border style) of each entry.
Legend = list[tuple[str, str, str]]


def draw_marks(axes: Axes, timeline: Timeline) -> Legend:
  """Draws the marks as vertical lines and returns their legend."""
  marks = {(mark.kind, mark.x) for mark in timeline.marks}
  for kind, x in sorted(marks):
    _, color, style, _ = _MARKS[kind]
    axes.axvline(x, color=color, linestyle=style, linewidth=1.0, alpha=0.8)
  kinds = {kind for kind, _ in marks}
  return [_MARKS[kind][:3] for kind in _MARKS if kind in kinds]


def draw_band(axes: Axes, timeline: Timeline, ink: str) -> Legend:
  """Draws one row per attempt, the first on top, and returns the legend.

  Args:
    axes: axes of the band.
    timeline: the timeline, with at least one stretch.
    ink: edge color of the marks.
  """
  row_of = {attempt: i for i, attempt in enumerate(timeline.attempts)}
  for stretch in timeline.stretches:
    axes.barh(
      row_of[stretch.attempt],
      stretch.last - stretch.first,
      left=stretch.first,
      height=0.72,
      color=LEVEL_COLORS.get(stretch.level, _UNKNOWN_COLOR),
      alpha=0.35 if stretch.abandoned else 0.9,
      linewidth=0,
    )
  for back in timeline.returns:
    row = row_of.get(back.attempt, 0)
    ends = [back.start, back.target], [max(row - 1, 0), row]
    axes.plot(*ends, color=_RETURN_COLOR, linewidth=1.4)
  for mark in timeline.marks:
    _, color, _, marker = _MARKS[mark.kind]
    axes.plot(
      mark.x,
      row_of.get(mark.attempt, 0),
      marker,
      markersize=4,
      color=color,
      markeredgecolor=ink,
      markeredgewidth=0.6,
      clip_on=False,
    )
  axes.set_ylim(len(row_of) - 0.5, -0.5)
  rows = row_of if len(row_of) > 1 else {}
  axes.set_yticks(list(rows.values()), map(str, rows), fontsize=7)
  levels = {stretch.level for stretch in timeline.stretches}
  legend = [
    (f"verdict: {level}", color, "solid")
    for level, color in LEVEL_COLORS.items()
    if level in levels
  ]
  if timeline.returns:
    legend.append(("rollback to the next attempt", _RETURN_COLOR, "solid"))
  return legend
