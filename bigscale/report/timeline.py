"""Places the monitor's verdicts, alarms and rollbacks on the kimg axis.

A run with rollbacks repeats some steps. The timeline therefore has a row per
attempt, and marks the part that a later attempt abandoned.
"""

import dataclasses
import math
from typing import Any

from bigscale.report.history import attempt_of, is_finite
from bigscale.report.read import Run

ALARMS = ("rollback", "stop")
_WATCHING = ("verdict", "healthy", "no_healthy_state", "rollback")
_KINDS = (*_WATCHING, "setting_changed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
  """A part of an attempt with one verdict.

  Attributes:
    attempt: number of the attempt, from 0.
    first: kimg at the beginning.
    last: kimg at the end.
    level: verdict: "ok", "warn", "rollback" or "stop".
    abandoned: whether a rollback to an earlier step abandoned it.
  """

  attempt: int
  first: float
  last: float
  level: str
  abandoned: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
  """A point in time.

  Attributes:
    kind: "alarm"; "healthy" (a saved healthy state); or "changed" (a setting
      that affects the training results).
    attempt: number of the attempt.
    x: kimg. For "healthy", the kimg of the state, not of the time of saving.
  """

  kind: str
  attempt: int
  x: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Return:
  """A rollback.

  Attributes:
    attempt: number of the attempt that it started.
    start: kimg at which the attempt before ended.
    target: kimg of the restored state.
  """

  attempt: int
  start: float
  target: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
  """The monitor's history of a run.

  Attributes:
    stretches: stretches by attempt and kimg. Empty without a monitor.
    marks: marks in chronological order.
    returns: rollbacks by attempt.
  """

  stretches: list[Stretch]
  marks: list[Mark]
  returns: list[Return]

  @property
  def attempts(self) -> list[int]:
    """Numbers of the attempts that have a stretch, in order."""
    return sorted({stretch.attempt for stretch in self.stretches})


def timeline(run: Run) -> Timeline | None:
  """Returns the monitor's history of a run.

  Returns None if there is none, or if the kimg of steps is unknown.
  """
  relevant = [
    event
    for event in run.history
    if event.get("event") in _KINDS and is_finite(event.get("step"))
  ]
  if run.kimg_per_step is None or not (relevant or _is_watched(run)):
    return None
  watched = _is_watched(run) or any(e["event"] in _WATCHING for e in relevant)
  returns = [
    Return(
      attempt=attempt_of(event),
      # The event has the number of the new attempt, but this is the kimg at
      # which the attempt before ended.
      start=run.kimg_at(event["step"], attempt_of(event) - 1),
      target=run.kimg_at(event["to_step"], attempt_of(event)),
    )
    for event in relevant
    if event["event"] == "rollback" and is_finite(event.get("to_step"))
  ]
  returns.sort(key=lambda back: back.attempt)
  return Timeline(
    stretches=_stretches(run, relevant, returns) if watched else [],
    marks=_marks(run, relevant),
    returns=returns,
  )


def _is_watched(run: Run) -> bool:
  return run.setting("monitor.action") in ("log", "checkpoint", "rollback")


def _stretches(
  run: Run,
  events: list[dict[str, Any]],
  returns: list[Return],
) -> list[Stretch]:
  ends = _ends(run, events)
  starts = {back.attempt: back.target for back in returns}
  found = []
  for attempt in sorted({*ends, *starts}):
    later = [back for back in returns if back.attempt > attempt]
    end = later[0].start if later else ends.get(attempt, starts.get(attempt))
    limit = min((back.target for back in later), default=math.inf)
    changes = [(starts.get(attempt, 0.0), "ok")]
    changes += [
      (run.kimg_at(event["step"], attempt), str(event.get("level")))
      for event in events
      if event["event"] == "verdict" and attempt_of(event) == attempt
    ]
    for (first, level), (last, _) in zip(
      changes, [*changes[1:], (end, "")], strict=True
    ):
      found += _split_at(limit, attempt, first, last, level)
  return found


def _ends(run: Run, events: list[dict[str, Any]]) -> dict[int, float]:
  """Returns the last known kimg of each attempt."""
  ends: dict[int, float] = {}
  moments = [(attempt_of(row), row["kimg"]) for row in run.all_rows]
  moments += [
    (attempt_of(event), run.kimg_at(event["step"], attempt_of(event)))
    for event in events
    # A rollback has the number of the new attempt but the step of the old one.
    if event["event"] != "rollback"
  ]
  for attempt, x in moments:
    ends[attempt] = max(x, ends.get(attempt, x))
  return ends


def _split_at(
  limit: float, attempt: int, first: float, last: float, level: str
) -> list[Stretch]:
  """Returns a stretch, split at `limit` if a rollback abandons its end."""
  parts = [
    (first, min(last, limit), False),
    (max(first, limit), last, True),
  ]
  return [
    Stretch(attempt=attempt, first=a, last=b, level=level, abandoned=abandoned)
    for a, b, abandoned in parts
    if a < b
  ]


def _marks(run: Run, events: list[dict[str, Any]]) -> list[Mark]:
  found = []
  for event in events:
    kind, step = None, event["step"]
    if event["event"] == "verdict" and event.get("level") in ALARMS:
      kind = "alarm"
    if event["event"] == "healthy" and is_finite(event.get("of_step")):
      kind, step = "healthy", event["of_step"]
    # A change whose event names no consequence does not affect the results.
    if event["event"] == "setting_changed" and event.get("consequence"):
      kind = "changed"
    if kind:
      attempt = attempt_of(event)
      x = run.kimg_at(step, attempt)
      found.append(Mark(kind=kind, attempt=attempt, x=x))
  return found
