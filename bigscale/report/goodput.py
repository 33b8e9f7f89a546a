"""Computes how a run's wall time was spent, from its events.

A `start` event has the seconds of startup. Each `times` event has the seconds
per phase since the event before it. Time spent in steps is lost if a rollback
or a restart abandons the resulting state. The time between the last event of a
killed process and the next start counts as downtime.
"""

from typing import Any

from bigscale.report.facts import duration
from bigscale.report.history import is_finite

# In the order of the table.
CATEGORIES = (
  "step",
  "rolled back",
  "redone",
  "data",
  "compile",
  "start",
  "evaluate",
  "samples",
  "profile",
  "checkpoint",
  "rollback",
  "other",
  "down",
)
_NAMES = {
  "step": "Training steps",
  "rolled back": "Steps abandoned by rollbacks",
  "redone": "Steps lost at restarts",
  "data": "Waiting for data",
  "compile": "Compilation",
  "start": "Startup",
  "evaluate": "Evaluation",
  "samples": "Sample grids",
  "profile": "Profiles",
  "checkpoint": "Checkpoints",
  "rollback": "Rollbacks",
  "other": "Other or unknown",
  "down": "Downtime between starts",
}
# Phases of the training loop whose category has another name.
_PHASES = {"start": "other"}


def goodput(events: list[dict[str, Any]]) -> dict[str, float]:
  """Returns the seconds per category. The sum is the wall time of the run.

  Args:
    events: all events of events.jsonl, in order.

  Returns:
    Seconds by category. `step` counts only steps that led to the latest state.
    {} if there is no `start` event.
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
    known = _add_segment(segment, found, steps)
    found["other"] += max(0.0, ended - segment[0]["time"] - known)
  for stretch in steps:
    found["step"] += stretch.kept
    found["rolled back"] += stretch.rolled_back
    found["redone"] += stretch.redone
  return found


def table(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
  """Returns rows of category and time, without empty categories."""
  found = goodput(events)
  whole = sum(found.values())
  return [
    (_NAMES[name], f"{duration(seconds)} ({seconds / whole:.1%})")
    for name, seconds in found.items()
    if seconds >= 0.5
  ]


class _Stretch:
  """Seconds spent in the steps after `first`, up to and including `last`.

  Attributes:
    kept: seconds that led to the latest state.
    rolled_back: seconds abandoned by rollbacks.
    redone: seconds lost at restarts.
  """

  def __init__(self, first: float, last: float, seconds: float) -> None:
    self._first, self._last = first, last
    self.kept, self.rolled_back, self.redone = seconds, 0.0, 0.0

  def cut(self, step: float, what: str) -> None:
    """Moves the time after a step from `kept` to another attribute.

    Args:
      step: last step that is kept.
      what: name of the attribute.
    """
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
  """Adds the events from one start to the next to the totals.

  Args:
    segment: the events, beginning with a `start` event.
    found: seconds by category, updated in place.
    steps: the stretches of steps so far, updated in place.

  Returns:
    The seconds that the events account for.
  """
  at = segment[0].get("step", 0)
  for stretch in steps:
    stretch.cut(at, "redone")
  known = 0.0
  for event in segment[1:]:
    if event.get("event") == "rollback":
      for stretch in steps:
        stretch.cut(event.get("to_step", at), "rolled_back")
      at = event.get("to_step", at)
    if event.get("event") != "times" or "step" not in event:
      continue
    seconds = _seconds(event)
    known += sum(seconds.values())
    steps.append(_Stretch(at, event["step"], seconds.pop("step", 0.0)))
    at = event["step"]
    for phase, value in seconds.items():
      name = _PHASES.get(phase, phase)
      found[name if name in found else "other"] += value
  return known


def _seconds(event: dict[str, Any]) -> dict[str, float]:
  seconds = event.get("seconds")
  if not isinstance(seconds, dict):
    return {}
  return {k: float(v) for k, v in seconds.items() if is_finite(v)}
