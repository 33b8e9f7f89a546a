"""Scores the monitor on a series of drills.

Shares have Wilson intervals. Rates of false alarms have exact Poisson
intervals.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# A score up to this many times another one is as good.
AS_GOOD = 1.1
# A run is lost if its scores stay above this many times the best one.
LOST = 2.0
# Number of last scores whose mean is the score of a run.
_LAST = 3
_Z95 = 1.959964

Row = Mapping[str, Any]


def wilson(successes: int, trials: int) -> dict[str, Any]:
  """Returns a share with its 95% Wilson interval; None without trials."""
  if not trials:
    return {"count": 0, "of": 0, "share": None, "interval95": None}
  share = successes / trials
  z2 = _Z95**2 / trials
  middle = (share + z2 / 2) / (1 + z2)
  half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
  return {
    "count": successes,
    "of": trials,
    "share": share,
    "interval95": [max(0.0, middle - half), min(1.0, middle + half)],
  }


def poisson(count: int, steps: int, per: int = 10_000) -> dict[str, Any]:
  """Returns a rate of events with its exact 95% interval (Garwood 1936)."""
  from scipy import stats

  if not steps:
    return {"count": count, "steps": 0, "rate": None, "interval95": None}
  low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
  high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
  scale = per / steps
  return {
    "count": count,
    "steps": steps,
    f"per_{per}": count * scale,
    "interval95": [float(low * scale), float(high * scale)],
  }


def kind_of(row: Row) -> str:
  """Returns the kind of a drill by its outcome.

  `faulty`: a fault that lost the run. `harmless`: a fault that did not.
  `healthy`: a control that was not lost. `ill`: a control that was lost without
  a known reason.
  """
  lost = row["lost_step"] is not None
  if row["fault"]:
    return "faulty" if lost else "harmless"
  return "ill" if lost else "healthy"


def score(rows: Iterable[Row], warmup: int) -> dict[str, Any]:
  """Returns the monitor's scores over drills.

  Args:
    rows: rows of `drills.jsonl`.
    warmup: number of first steps that are not judged and therefore not counted.

  Returns:
    recall: share of faulty runs with an alarm after the start of the fault.
    in_time: share of faulty runs with an alarm before the step at which the run
      was lost.
    lead: steps from the alarm to the loss of faulty runs, and their fraction of
      the run: median and 10th percentile.
    false_alarms: alarms in healthy runs, and before the fault in other runs.
    healthy_good: share of the checkpoints saved at an alarm whose score is
      within 10% of the best score before the alarm.
    run_good: share of the same runs whose last score before the fault was
      within 10% of their best. It bounds `healthy_good`.
    recovered: share of the runs with rollback that came within 10% of the final
      score of the undisturbed run of the same seed.
    by_fault: counts for each disturbance.
  """
  rows = list(rows)
  kinds = {kind: [] for kind in ("faulty", "harmless", "healthy", "ill")}
  for row in rows:
    kinds[kind_of(row)].append(row)
  faulty = kinds["faulty"]
  seen = [row for row in faulty if _alarm_after_start(row)]
  leads = [row["lost_step"] - row["alarm"]["step"] for row in seen]
  parts = [
    lead / row["total_steps"] for lead, row in zip(leads, seen, strict=True)
  ]
  good = [_healthy_is_good(row) for row in seen]
  able = [_run_was_good(row) for row in seen]
  recovered = [_recovered(row, rows) for row in seen]
  recovered = [r for r in recovered if r is not None]
  false, steps = _false_alarms(kinds, warmup)
  return {
    "runs": {kind: len(found) for kind, found in kinds.items()},
    "recall": wilson(len(seen), len(faulty)),
    "in_time": wilson(sum(lead > 0 for lead in leads), len(faulty)),
    "lead": {"steps": _spread(leads), "share_of_run": _spread(parts)},
    "false_alarms": poisson(false, steps),
    "healthy_good": wilson(sum(good), len(good)),
    "run_good": wilson(sum(able), len(able)),
    "recovered": wilson(sum(recovered), len(recovered)),
    "by_fault": _by_fault(rows),
  }


def lost_step(
  scores: Sequence[tuple[int, float]], ended: int | None
) -> int | None:
  """Returns the step at which a run was lost, or None.

  This is the step of the first score from which all scores are more than twice
  the best earlier score, or else the step at which values that are not finite
  ended the run.
  """
  best, lost = math.inf, None
  for step, score in scores:
    if not math.isfinite(score) or score > LOST * best:
      lost = step if lost is None else lost
      continue
    lost, best = None, min(best, score)
  return ended if lost is None else lost


def _alarm_after_start(row: Row) -> bool:
  return bool(row["alarm"]) and row["alarm"]["step"] >= row["start"]


def _false_alarms(
  kinds: Mapping[str, Sequence[Row]], warmup: int
) -> tuple[int, int]:
  """Returns the number of false alarms and of undisturbed, judged steps."""
  count, steps = 0, 0
  for row in kinds["healthy"]:
    count += bool(row["alarm"])
    steps += max(0, row["last_step"] - _judged_from(row, warmup))
  for row in (*kinds["faulty"], *kinds["harmless"]):
    count += bool(row["alarm"]) and not _alarm_after_start(row)
    steps += max(0, row["start"] - _judged_from(row, warmup))
  return count, steps


def _judged_from(row: Row, warmup: int) -> int:
  """Returns the last step that is not judged or that the trunk counts."""
  return max(warmup, row.get("shared_steps", 0))


def _healthy_is_good(row: Row) -> bool:
  """Returns whether the saved state is as good as the best before the alarm."""
  healthy = row.get("healthy")
  if not healthy or healthy["score"] is None:
    return False
  return healthy["score"] <= AS_GOOD * _best_until_alarm(row)


def _run_was_good(row: Row) -> bool:
  """Returns whether the run was near its best score when its fault began."""
  before = [s for step, s in row["scores"] if step <= row["start"]]
  return not before or before[-1] <= AS_GOOD * _best_until_alarm(row)


def _best_until_alarm(row: Row) -> float:
  before = [s for step, s in row["scores"] if step <= row["alarm"]["step"]]
  return min(before, default=math.inf)


def _recovered(row: Row, rows: Sequence[Row]) -> bool | None:
  """Returns whether a run with rollback reached the undisturbed run's score.

  None if the run had no rollback or there is no undisturbed run.
  """
  recovery = row.get("recovery")
  twins = [
    other
    for other in rows
    if other["what"] == "undisturbed"
    and (other["stage"], other["seed"]) == (row["stage"], row["seed"])
  ]
  if not recovery or not twins:
    return None
  if recovery["ended"] is not None or not recovery["rollbacks"]:
    return False
  goal = statistics.fmean(s for _, s in twins[0]["scores"][-_LAST:])
  reached = [s for step, s in recovery["scores"] if step >= row["start"]]
  return bool(reached) and min(reached) <= AS_GOOD * goal


def _spread(values: Sequence[float]) -> dict[str, float | None]:
  if not values:
    return {"median": None, "percentile10": None}
  ordered = sorted(values)
  return {
    "median": statistics.median(ordered),
    "percentile10": ordered[int(0.1 * (len(ordered) - 1))],
  }


def _by_fault(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
  """Returns counts and the median lead of faulty runs, by disturbance."""
  found: dict[str, dict[str, Any]] = {}
  for what in dict.fromkeys(row["what"] for row in rows):
    mine = [row for row in rows if row["what"] == what]
    kinds = [kind_of(row) for row in mine]
    lost = [row for row in mine if kind_of(row) == "faulty"]
    leads = [
      row["lost_step"] - row["alarm"]["step"]
      for row in lost
      if _alarm_after_start(row)
    ]
    found[what] = {
      "runs": len(mine),
      "faulty": kinds.count("faulty"),
      "ill": kinds.count("ill"),
      "alarms": sum(bool(row["alarm"]) for row in mine),
      "seen": len(leads),
      "lead": _spread(leads)["median"],
    }
  return found


def as_text(scored: Mapping[str, Any]) -> str:
  """Returns the scores as lines of text."""
  runs = ", ".join(f"{n} {kind}" for kind, n in scored["runs"].items())
  lines = [f"runs: {runs}"]
  for name in ("recall", "in_time", "healthy_good", "run_good", "recovered"):
    lines.append(f"{name}: {_share_text(scored[name])}")
  lead = scored["lead"]["steps"]
  lines.append(
    f"lead: median {lead['median']} steps, 10th percentile "
    f"{lead['percentile10']}"
  )
  false = scored["false_alarms"]
  rate, interval = false.get("per_10000"), false["interval95"]
  lines.append(
    f"false alarms: {false['count']} in {false['steps']} healthy steps"
    + (
      ""
      if interval is None
      else f", {rate:.2f} per 10,000 ({interval[0]:.2f} to {interval[1]:.2f})"
    )
  )
  lines += ["", "disturbance        runs faulty alarms seen lead"]
  for what, marks in scored["by_fault"].items():
    lines.append(
      f"{what:18} {marks['runs']:4} {marks['faulty'] + marks['ill']:6} "
      f"{marks['alarms']:6} {marks['seen']:4} "
      f"{'' if marks['lead'] is None else format(marks['lead'], '.0f'):>4}"
    )
  return "\n".join(lines)


def _share_text(share: Mapping[str, Any]) -> str:
  if share["share"] is None:
    return "no runs"
  low, high = share["interval95"]
  return (
    f"{share['count']} of {share['of']}, {share['share']:.1%} "
    f"({low:.1%} to {high:.1%})"
  )
