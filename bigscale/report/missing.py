"""Finds the scores that a run was asked for but does not have."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bigscale.report.history import attempt_of, is_finite
from bigscale.report.read import Run
from bigscale.spec import SpecError
from bigscale.spec.scores import Score


class Missing(NamedTuple):
  """A score that could not be computed.

  Attributes:
    score: its name.
    columns: that it would have given.
    steps: at which it was missing, in order.
    why: at the last of these.
    at_end: whether no later evaluation has it: what is known of it is older.
  """

  score: str
  columns: tuple[str, ...]
  steps: tuple[int, ...]
  why: str
  at_end: bool

  def as_text(self) -> str:
    """Returns a sentence for people."""
    times = len(self.steps)
    where = f"step {self.steps[-1]:,}"
    if times > 1:
      where = f"{times} evaluations, the last at {where}"
    end = "; the run has no newer value of it" if self.at_end else ""
    return f"{self.score} is missing at {where}{end}: {self.why}"


def missing_scores(run: Run) -> list[Missing]:
  """Returns the scores that evaluations of a run are without, by name.

  Those of attempts that were given up count as long as no row shows that the
  step was scored after all.
  """
  found: dict[str, dict[int, str]] = {}
  columns: dict[str, tuple[str, ...]] = {}
  newest = max((attempt_of(row) for row in run.rows), default=0)
  for event in run.events:
    name, step = event.get("score"), event.get("step")
    told = event.get("event") == "score_failed" and isinstance(name, str)
    if told and is_finite(step) and attempt_of(event) <= newest:
      found.setdefault(name, {})[int(step)] = str(event.get("error", ""))
      columns[name] = tuple(event.get("columns") or _columns(name))
  missing = []
  for name, whys in sorted(found.items()):
    scored = _steps_with(run, columns[name])
    steps = sorted(step for step in whys if step not in scored)
    if steps:
      at_end = steps[-1] > max(scored, default=-1)
      missing.append(
        Missing(name, columns[name], tuple(steps), whys[steps[-1]], at_end)
      )
  return missing


def _columns(name: str) -> tuple[str, ...]:
  """Columns of a score of which the event does not tell them."""
  try:
    return Score.parse(name).columns
  except SpecError:
    # Of a version with other scores.
    return (name,)


def _steps_with(run: Run, columns: tuple[str, ...]) -> set[int]:
  """Steps whose rows have a score."""
  scalars = [f"eval/{column}" for column in columns]
  return {row["step"] for row in run.rows if _has_any(row, scalars)}


def _has_any(row: Mapping[str, Any], columns: list[str]) -> bool:
  return any(column in row for column in columns)
