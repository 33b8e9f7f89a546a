"""Where a run's wall time went, from its events.

Every start says how long it took to get ready (`start`), and from then on
`times` says what was done since the one before. Of the seconds spent in steps,
those are lost that led to a state that a rollback or a restart gave up. Between
the last event of a process that died and the next start nobody knows more
than that the run was down.
"""

from typing import Any

from bigscale.report.facts import duration
from bigscale.report.history import is_finite

# In the order in which a table shows them.
CATEGORIES = (
  "step",
  "rolled back",
  "redone",
  "data",
  "compile",
  "start",
  "evaluate",
  "samples",
  "checkpoint",
  "rollback",
  "other",
  "down",
)
_NAMES = {
  "step": "Steps that stand",
  "rolled back": "Steps given up by a rollback",
  "redone": "Steps lost with a process",
  "data": "Waiting for data",
  "compile": "Compiling",
  "start": "Starting",
  "evaluate": "Scoring",
  "samples": "Drawing grids",
  "checkpoint": "Saving",
  "rollback": "Going back",
  "other": "Other, or unknown since killed",
  "down": "Down between starts",
}
# What phases of the loop are called otherwise here.
_PHASES = {"start": "other"}


def goodput(events: list[dict[str, Any]]) -> dict[str, float]:
  """Seconds by category; together they are the wall time of the run.

  Args:
    events: of events.jsonl, in order, all of them.

  Returns:
    `step` is what went into the run as it stands; {} where no event tells.
  """
  events = [e for e in events if is_finite(e.get("time"))]
  starts = [n for n, e in enumerate(events) if e.get("event") == "start"]
  if not starts:
    return {}
  found = dict.fromkeys(CATEGORIES, 0.0)
  steps: list[_Stretch] = []
  ended = None
  for first, after in zip(starts, [*starts[1:], len(events)], strict=True):
    segment = events[first:after]
    ready = sum(_seconds(segment[0]).values())
    began = segment[0]["time"] - ready
    if ended is not None:
      found["down"] += max(0.0, began - ended)
    found["start"] += ready
    ended = segment[-1]["time"]
    told = _add_segment(segment, found, steps)
    found["other"] += max(0.0, ended - segment[0]["time"] - told)
  for stretch in steps:
    found["step"] += stretch.kept
    found["rolled back"] += stretch.rolled_back
    found["redone"] += stretch.redone
  return found


def table(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
  """Rows of a table: where time went, and how much; none that took none."""
  found = goodput(events)
  whole = sum(found.values())
  return [
    (_NAMES[name], f"{duration(seconds)} ({seconds / whole:.1%})")
    for name, seconds in found.items()
    if seconds >= 0.5
  ]


class _Stretch:
  """Seconds of the steps after `first` up to `last`, and what became of them.

  Attributes:
    kept: that led to the state as it stands.
    rolled_back: given up by the monitor.
    redone: lost with a process.
  """

  def __init__(self, first: float, last: float, seconds: float) -> None:
    self._first, self._last = first, last
    self.kept, self.rolled_back, self.redone = seconds, 0.0, 0.0

  def cut(self, step: float, what: str) -> None:
    """Gives up what came after a step."""
    length = self._last - self._first
    if self._last <= step or not length:
      return
    lost = self.kept * (self._last - max(step, self._first)) / length
    self.kept -= lost
    setattr(self, what, getattr(self, what) + lost)
    self._last = max(step, self._first)


def _add_segment(
  segment: list[dict[str, Any]],
  found: dict[str, float],
  steps: list[_Stretch],
) -> float:
  """Counts one start's events: seconds that they account for."""
  at = segment[0].get("step", 0)
  for stretch in steps:
    stretch.cut(at, "redone")
  told = 0.0
  for event in segment[1:]:
    if event.get("event") == "rollback":
      for stretch in steps:
        stretch.cut(event.get("to_step", at), "rolled_back")
      at = event.get("to_step", at)
    if event.get("event") != "times" or "step" not in event:
      continue
    seconds = _seconds(event)
    told += sum(seconds.values())
    steps.append(_Stretch(at, event["step"], seconds.pop("step", 0.0)))
    at = event["step"]
    for phase, value in seconds.items():
      name = _PHASES.get(phase, phase)
      found[name if name in found else "other"] += value
  return told


def _seconds(event: dict[str, Any]) -> dict[str, float]:
  seconds = event.get("seconds")
  if not isinstance(seconds, dict):
    return {}
  return {k: float(v) for k, v in seconds.items() if is_finite(v)}
