"""Reads the monitor's decisions and their reasons from a run's events."""

import dataclasses
import json
from typing import Any

from bigscale.report.facts import number
from bigscale.report.history import attempt_of
from bigscale.report.read import Run
from bigscale.report.timeline import ALARMS

_LEVELS = ("ok", "warn", *ALARMS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedReason:
  """One signal of a decision, as text; see `monitor.verdict.Reason`."""

  signal: str
  value: str
  reference: str
  rule: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedDecision:
  """One event of the monitor.

  Attributes:
    step: step of the event, as text.
    attempt: attempt of the event.
    kind: level of the verdict, or name of the action.
    is_level: whether `kind` is a level.
    text: details other than the reasons.
    reasons: reasons, the strongest first.
  """

  step: str
  attempt: int
  kind: str
  is_level: bool
  text: str
  reasons: list[LoggedReason]


def decisions(run: Run) -> list[LoggedDecision]:
  """Returns the decisions in order, also those of abandoned attempts."""
  found = []
  for event in run.history:
    attempt = attempt_of(event)
    kind, is_level = str(event.get("event")), False
    reasons: list[LoggedReason] = []
    if kind == "verdict":
      kind, is_level = str(event.get("level")), True
      text = _since(event)
      reasons = _reasons(event.get("reasons"))
    elif kind == "rollback":
      kind = "rolled back"
      text = _rollback(event)
      # The event has the number of the new attempt, but ended the one before.
      attempt -= 1
    elif kind == "healthy":
      kind = "saved"
      text = f"healthy/{event.get('of_step')}" + _before(event)
    elif kind == "no_healthy_state":
      kind = "saved nothing"
      text = "no healthy state in memory" + _before(event)
    elif kind == "monitor_failed":
      kind = "failed"
      text = "internal error of the monitor; training continued"
    elif kind == "lost":
      text = str(event.get("why", ""))
    else:
      continue
    found.append(
      LoggedDecision(
        step=number(event.get("step", "")),
        attempt=attempt,
        kind=kind,
        is_level=is_level and kind in _LEVELS,
        text=text,
        reasons=reasons,
      )
    )
  return found


def _since(event: dict[str, Any]) -> str:
  onset = event.get("onset")
  return "" if onset is None else f"onset at step {number(onset)}"


def _before(event: dict[str, Any]) -> str:
  onset = event.get("onset")
  return "" if onset is None else f", at or before step {number(onset)}"


def _reasons(found: Any) -> list[LoggedReason]:
  if not isinstance(found, list):
    return []
  return [
    LoggedReason(
      signal=str(reason.get("signal", "")),
      value=_number(reason.get("value")),
      reference=_number(reason.get("reference")),
      rule=str(reason.get("rule", "")),
    )
    for reason in found
    if isinstance(reason, dict)
  ]


def _number(value: Any) -> str:
  """Returns a number for a narrow column; "unknown" for None."""
  if value is None:
    return "unknown"
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rollback(event: dict[str, Any]) -> str:
  """Returns the target of a rollback and what it changed."""
  parts = [
    f"to step {number(event.get('to_step'))} as attempt {attempt_of(event)}",
    f"retry {event.get('retry')}",
  ]
  skipped = event.get("skipped")
  if isinstance(skipped, list) and len(skipped) == 2:
    first, last = map(number, skipped)
    parts.append(f"records {first} to {last} skipped")
  else:
    parts.append("same data again")
  changes = event.get("turned")
  if isinstance(changes, dict):
    parts += [f"{name}: {_change(value)}" for name, value in changes.items()]
  return "; ".join(parts)


def _change(value: Any) -> str:
  if isinstance(value, (dict, list)):
    return json.dumps(value, ensure_ascii=False)
  return _number(value)


def summary(run: Run) -> list[tuple[str, str]]:
  """Returns the monitor's settings and the counts of its decisions."""
  made = decisions(run)
  action = run.setting("monitor.action")
  facts = []
  if action:
    facts.append(("Action at an alarm", _ACTIONS.get(action, str(action))))
  if made:
    alarms = [a for a in made if a.is_level and a.kind in ALARMS]
    levels = [a.kind for a in made if a.is_level]
    text = f"{len(alarms)}"
    if alarms:
      text += f", the first at step {alarms[0].step}"
    facts.append(("Alarms", text))
    facts.append(("Warnings", str(levels.count("warn"))))
    backs = sum(a.kind == "rolled back" for a in made)
    facts.append(("Rollbacks", str(backs)))
  kept, interval = (
    run.setting(f"monitor.{name}")
    for name in ("snapshots", "snapshot_interval")
  )
  if action in ("checkpoint", "rollback") and kept and interval:
    text = f"every {number(interval)} steps, newest {number(kept)} kept"
    facts.append(("Snapshots in memory", text))
  return facts


_ACTIONS = {
  "off": "none, the monitor is off",
  "log": "write an event",
  "checkpoint": "save a healthy state",
  "rollback": "save a healthy state and roll back to it",
}
