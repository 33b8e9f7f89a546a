"""The monitor's verdict as a band under curves, and marks across them."""

from typing import Any

from bigscale.report.timeline import Timeline

LEVEL_COLORS = {
  "ok": "#4cae6e",
  "warn": "#d9a02b",
  "rollback": "#d6453d",
  "stop": "#8c2f39",
}
_UNKNOWN_COLOR = "#8a8f98"
_RETURN_COLOR = "#7b5fc9"
# Kind of mark: what it is called, colour, line across curves, sign on the band.
_MARKS = {
  "alarm": ("alarm", LEVEL_COLORS["rollback"], "dashed", "v"),
  "healthy": ("healthy state saved", LEVEL_COLORS["ok"], "dotted", "D"),
  "changed": ("settings changed", "#3f7fd1", "dashdot", "s"),
}
# Of a row, between rows of neighbouring attempts.
_HEIGHT = 0.72


def draw_band(axes: Any, timeline: Timeline, ink: str) -> None:
  """Draws a row for each attempt, the first on top.

  Args:
    axes: matplotlib's, of the band alone.
    timeline: with a stretch at least.
    ink: colour of what belongs to the axes.
  """
  row_of = {attempt: i for i, attempt in enumerate(timeline.attempts)}
  for stretch in timeline.stretches:
    axes.barh(
      row_of[stretch.attempt],
      stretch.last - stretch.first,
      left=stretch.first,
      height=_HEIGHT,
      color=LEVEL_COLORS.get(stretch.level, _UNKNOWN_COLOR),
      alpha=0.35 if stretch.given_up else 0.9,
      linewidth=0,
    )
  for back in timeline.returns:
    row = row_of.get(back.attempt, 0)
    axes.plot(
      [back.start, back.target],
      [max(row - 1, 0), row],
      color=_RETURN_COLOR,
      linewidth=1.4,
    )
  for mark in timeline.marks:
    _, color, _, sign = _MARKS[mark.kind]
    axes.plot(
      [mark.x],
      [row_of.get(mark.attempt, 0)],
      marker=sign,
      markersize=4,
      color=color,
      markeredgecolor=ink,
      markeredgewidth=0.6,
      clip_on=False,
    )
  axes.set_ylim(len(row_of) - 0.5, -0.5)
  many = len(row_of) > 1
  axes.set_yticks(
    list(row_of.values()) if many else [],
    [str(attempt) for attempt in row_of] if many else [],
    fontsize=7,
  )


def draw_marks(axes: Any, timeline: Timeline) -> None:
  """Draws the moments as lines across the curves of other axes."""
  for kind, x in sorted({(mark.kind, mark.x) for mark in timeline.marks}):
    _, color, style, _ = _MARKS[kind]
    axes.axvline(x, color=color, linestyle=style, linewidth=1.0, alpha=0.8)


def legend_of(timeline: Timeline, band: bool) -> list[tuple[str, str, str]]:
  """(label, colour, CSS border style) of what is drawn.

  Args:
    timeline: what is drawn of the monitor.
    band: whether the band is, beside the marks.
  """
  kinds = {mark.kind for mark in timeline.marks}
  entries = [
    (label, color, style)
    for kind, (label, color, style, _) in _MARKS.items()
    if kind in kinds
  ]
  if not band:
    return entries
  levels = {stretch.level for stretch in timeline.stretches}
  entries += [
    (f"verdict: {level}", color, "solid")
    for level, color in LEVEL_COLORS.items()
    if level in levels
  ]
  if timeline.returns:
    entries.append(("rollback to the next attempt", _RETURN_COLOR, "solid"))
  return entries
