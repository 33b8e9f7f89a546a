"""Finds requested scores that a run could not compute."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bigscale.report.history import attempt_of, is_finite
from bigscale.report.read import Run
from bigscale.spec import SpecError
from bigscale.spec.scores import Score


class Missing(NamedTuple):
  """A score that could not be computed.

  Attributes:
    score: name of the score.
    columns: columns of the score.
    steps: steps of the evaluations without the score, in order.
    why: reason at the last of these steps.
    at_end: whether no later evaluation has the score.
  """

  score: str
  columns: tuple[str, ...]
  steps: tuple[int, ...]
  why: str
  at_end: bool

  def as_text(self) -> str:
    """Returns the facts as a sentence."""
    times = len(self.steps)
    where = f"step {self.steps[-1]:,}"
    if times > 1:
      where = f"{times} evaluations, the last at {where}"
    end = "; there is no newer value" if self.at_end else ""
    return f"{self.score} is missing at {where}{end}: {self.why}"


def missing_scores(run: Run) -> list[Missing]:
  """Returns the scores that are missing in evaluations, sorted by name.

  A failure in an abandoned attempt counts, unless the same step was evaluated
  successfully later.
  """
  found: dict[str, dict[int, str]] = {}
  columns: dict[str, tuple[str, ...]] = {}
  newest = max((attempt_of(row) for row in run.rows), default=0)
  for event in run.events:
    name, step = event.get("score"), event.get("step")
    failed = event.get("event") == "score_failed" and isinstance(name, str)
    if failed and is_finite(step) and attempt_of(event) <= newest:
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
  """Returns the columns of a score whose event does not contain them."""
  try:
    return Score.parse(name).columns
  except SpecError:
    # The run's version has a score that this version does not know.
    return (name,)


def _steps_with(run: Run, columns: tuple[str, ...]) -> set[int]:
  """Returns the steps whose rows contain any of the columns."""
  scalars = [f"eval/{column}" for column in columns]
  return {row["step"] for row in run.rows if _has_any(row, scalars)}


def _has_any(row: Mapping[str, Any], columns: list[str]) -> bool:
  return any(column in row for column in columns)
