"""What the monitor saw and did, and what was changed, over kimg.

A run that was rolled back lived some steps more than once. Each attempt has a
row of its own, and what a later attempt gave up is marked.
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
  """A part of an attempt at one level.

  Attributes:
    attempt: 0 for the first.
    first: kimg at which it begins.
    last: kimg at which it ends.
    level: the verdict: "ok", "warn", "rollback" or "stop".
    given_up: whether a later attempt went back to before it.
  """

  attempt: int
  first: float
  last: float
  level: str
  given_up: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
  """A moment.

  Attributes:
    kind: "alarm"; "healthy": the state that was saved; "changed": a setting
      that changes the run's numbers.
    attempt: in which it was.
    x: kimg; of "healthy" that of the state, not of the saving.
  """

  kind: str
  attempt: int
  x: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Return:
  """A rollback.

  Attributes:
    attempt: that it began.
    start: kimg at which the attempt before ended.
    target: kimg that it went back to.
  """

  attempt: int
  start: float
  target: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
  """All of it.

  Attributes:
    stretches: by attempt and kimg.
    marks: in the order in which they happened.
    returns: by attempt.
  """

  stretches: list[Stretch]
  marks: list[Mark]
  returns: list[Return]

  @property
  def attempts(self) -> list[int]:
    """Those that have a stretch, in order."""
    return sorted({stretch.attempt for stretch in self.stretches})


def timeline(run: Run) -> Timeline | None:
  """The levels, alarms, healthy states and rollbacks of a run.

  Args:
    run: what its folder says.

  Returns:
    None where there is nothing of it, or where steps cannot be put on the
    axis. No stretches where no monitor watched.
  """
  seen = [
    event
    for event in run.history
    if event.get("event") in _KINDS and is_finite(event.get("step"))
  ]
  if run.kimg_per_step is None or not (seen or _is_watched(run)):
    return None
  watched = _is_watched(run) or any(e["event"] in _WATCHING for e in seen)
  returns = [
    Return(
      attempt=attempt_of(event),
      # The attempt that it ended came to there.
      start=run.kimg_at(event["step"], attempt_of(event) - 1),
      target=run.kimg_at(event["to_step"], attempt_of(event)),
    )
    for event in seen
    if event["event"] == "rollback" and is_finite(event.get("to_step"))
  ]
  returns.sort(key=lambda back: back.attempt)
  return Timeline(
    stretches=_stretches(run, seen, returns) if watched else [],
    marks=_marks(run, seen),
    returns=returns,
  )


def _is_watched(run: Run) -> bool:
  return run.setting("monitor.action") in ("log", "checkpoint", "rollback")


def _stretches(
  run: Run,
  seen: list[dict[str, Any]],
  returns: list[Return],
) -> list[Stretch]:
  ends = _ends(run, seen)
  starts = {back.attempt: back.target for back in returns}
  found = []
  for attempt in sorted({*ends, *starts}):
    later = [back for back in returns if back.attempt > attempt]
    end = later[0].start if later else ends.get(attempt, starts.get(attempt))
    limit = min((back.target for back in later), default=math.inf)
    changes = [(starts.get(attempt, 0.0), "ok")]
    changes += [
      (run.kimg_at(event["step"], attempt), str(event.get("level")))
      for event in seen
      if event["event"] == "verdict" and attempt_of(event) == attempt
    ]
    for (first, level), (last, _) in zip(
      changes, [*changes[1:], (end, "")], strict=True
    ):
      found += _parted(attempt, first, last, level, limit)
  return found


def _ends(run: Run, seen: list[dict[str, Any]]) -> dict[int, float]:
  """The last kimg that is known of each attempt."""
  ends: dict[int, float] = {}
  moments = [(attempt_of(row), row["kimg"]) for row in run.all_rows]
  moments += [
    (attempt_of(event), run.kimg_at(event["step"], attempt_of(event)))
    for event in seen
    # Of the attempt that it ended, though it bears the new one's number.
    if event["event"] != "rollback"
  ]
  for attempt, x in moments:
    ends[attempt] = max(x, ends.get(attempt, x))
  return ends


def _parted(
  attempt: int, first: float, last: float, level: str, limit: float
) -> list[Stretch]:
  """One stretch, or two where it was given up from `limit` on."""
  parts = [
    (first, min(last, limit), False),
    (max(first, limit), last, True),
  ]
  return [
    Stretch(attempt=attempt, first=a, last=b, level=level, given_up=given_up)
    for a, b, given_up in parts
    if a < b
  ]


def _marks(run: Run, seen: list[dict[str, Any]]) -> list[Mark]:
  found = []
  for event in seen:
    kind, step = None, event["step"]
    if event["event"] == "verdict" and event.get("level") in ALARMS:
      kind = "alarm"
    if event["event"] == "healthy" and is_finite(event.get("of_step")):
      kind, step = "healthy", event["of_step"]
    # Of the others no number of the training tells.
    if event["event"] == "setting_changed" and event.get("consequence"):
      kind = "changed"
    if kind:
      attempt = attempt_of(event)
      x = run.kimg_at(step, attempt)
      found.append(Mark(kind=kind, attempt=attempt, x=x))
  return found
