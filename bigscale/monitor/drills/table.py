"""Scores the monitor on the rows of finished drills."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bigscale.monitor import scoring
from bigscale.monitor.scoring import End, poisson, wilson

Row = Mapping[str, Any]
# Causes of a fault after a rollback; see `disturbances.Scene`.
CAUSES = ("removed", "persisting")
RATES = ("recall", "in_time", "healthy_good", *CAUSES)
_TITLES = {
  "recall": "seen",
  "in_time": "seen before lost",
  "healthy_good": "healthy state good",
  "removed": "recovered, fault removed",
  "persisting": "recovered, fault persisting",
}


def end_of_row(row: Row, twin: Row | None) -> End:
  """Returns the outcome of a drill.

  Args:
    row: row of `drills.jsonl`, or of one of its recoveries.
    twin: row of the undisturbed drill; None if it is missing. It does not count
      for runs with other settings from the first step on.
  """
  scores = [] if twin is None or row["from_start"] else twin["scores"]
  return scoring.end_of(
    row["scores"], scores, ended=row["ended"], dead=row["dead"]
  )


class Table:
  """The rows of drills with their outcomes."""

  def __init__(self, rows: Iterable[Row], warmups: Mapping[str, int]) -> None:
    """Computes the outcome of every row.

    Args:
      rows: rows of `drills.jsonl`.
      warmups: by `watch`, number of steps at the start of a run in which the
        monitor does not judge. They do not count as healthy steps.
    """
    self.rows = list(rows)
    self._warmups = warmups
    # A control may be lost for an unknown reason. Its alarms are not counted.
    self._twins = {
      _key(row): row for row in self.rows if row["what"] == "undisturbed"
    }
    self.ends = {row["name"]: self._end(row) for row in self.rows}
    stages = dict.fromkeys(row["stage"] for row in self.rows)
    self.noise = {
      stage: scoring.noise(
        [r["scores"] for r in self._twins.values() if r["stage"] == stage]
      )
      for stage in stages
    }

  def twin(self, row: Row) -> Row | None:
    """Returns the undisturbed run of a row's model, seed and length."""
    return self._twins.get(_key(row))

  def _end(self, row: Row) -> End:
    # Other settings from the first step on make a control incomparable.
    return end_of_row(row, self.twin(row))

  def faults(self, outcome: str, rows: Iterable[Row]) -> list[Row]:
    """Returns the rows with a fault and an outcome."""
    return [
      row
      for row in rows
      if row["fault"] and self.ends[row["name"]].outcome == outcome
    ]

  def rates(self, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the monitor's rates on the faults of some rows.

    Returns:
      A dict of
        faults: number of runs by outcome.
        recall: proportion of lost runs with an alarm at or after the fault.
        in_time: proportion of lost runs with such an alarm before the step
          from which they were lost.
        lead: number of steps from the alarm to the loss.
        delay: number of steps from the fault to the alarm.
        healthy_good: proportion of lost runs with an alarm whose saved state
          scores like the undisturbed twin when the fault began.
        removed, persisting: proportion of the runs that were rolled back whose
          final score is like that of the twin.
        harmless_alarms: alarms in runs that the fault did not harm.
    """
    kept = {
      outcome: self.faults(outcome, rows)
      for outcome in ("lost", "harmed", "unharmed")
    }
    lost = kept["lost"]
    seen = [row for row in lost if row["alarm"]]
    leads = [self._lead(row) for row in seen]
    found = {
      "faults": {outcome: len(of) for outcome, of in kept.items()},
      "recall": wilson(len(seen), len(lost)),
      "in_time": wilson(sum(lead > 0 for lead in leads), len(lost)),
      "lead": scoring.spread(leads),
      "delay": scoring.spread(
        [row["alarm"]["step"] - row["start"] for row in seen]
      ),
      "healthy_good": _share(
        # No state can be better than that of the run's first steps.
        [self.healthy_is_good(row) for row in seen if not row["from_start"]]
      ),
      "harmless_alarms": wilson(
        sum(bool(row["alarm"]) for row in kept["unharmed"]),
        len(kept["unharmed"]),
      ),
    }
    for cause in CAUSES:
      found[cause] = _share(
        [self.recovered(row, cause) for row in seen if "recovery" in row]
      )
    return found

  def _lead(self, row: Row) -> int:
    return self.ends[row["name"]].lost_step - row["alarm"]["step"]

  def healthy_is_good(self, row: Row) -> bool:
    """Returns whether the saved state is as good as the twin at the fault."""
    twin, healthy = self.twin(row), row.get("healthy")
    if twin is None or not healthy or healthy["score"] is None:
      return False
    goal = scoring.level_at(twin["scores"], row["start"])
    allowed = scoring.limit(self.noise[row["stage"]], 1, 2)
    return goal is not None and healthy["score"] <= allowed * goal

  def recovered(self, row: Row, cause: str) -> bool | None:
    """Returns whether a rolled back run ended like its twin.

    None if it was not rolled back with this cause, or has no twin.
    """
    twin, found = self.twin(row), row["recovery"].get(cause)
    if twin is None or found is None:
      return None
    if found["ended"] is not None or not found["rollbacks"]:
      return False
    ratio = scoring.ratio_to_twin(found["scores"], twin["scores"])
    last = scoring.LAST
    allowed = scoring.limit(self.noise[row["stage"]], last, last)
    return ratio is not None and ratio <= allowed

  def false_alarms(self, rows: Iterable[Row]) -> dict[str, Any]:
    """Returns the rate of alarms in the steps of healthy controls.

    A control that was lost for an unknown reason has no healthy steps.
    """
    count, steps = 0, 0
    for row in rows:
      if row["fault"] or self.ends[row["name"]].outcome == "lost":
        continue
      warmup = self._warmups[row["watch"]]
      count += len(row["alarms"])
      steps += max(0, row["last_step"] - max(warmup, row["shared_steps"]))
    return poisson(count, steps)


def score(rows: Iterable[Row], warmups: Mapping[str, int]) -> dict[str, Any]:
  """Returns the monitor's scores over all drills.

  Args:
    rows: rows of `drills.jsonl`.
    warmups: see `Table`.

  Returns:
    A dict of
      runs: number of drills with a fault and of controls, and of lost controls.
      rates: `Table.rates` by group of drills.
      false_alarms: `Table.false_alarms` by group of controls.
      noise: by stage, the noise of a score's logarithm and the allowed ratios.
      by_kind: numbers of runs and alarms of each kind.
  """
  table = Table(rows, warmups)
  groups = _groups(table.rows)
  controls = [row for row in table.rows if not row["fault"]]
  lost = [r for r in controls if table.ends[r["name"]].outcome == "lost"]
  return {
    "runs": {
      "faults": len(table.rows) - len(controls),
      "controls": len(controls),
      "lost_controls": [row["name"] for row in lost],
    },
    "rates": {name: table.rates(of) for name, of in groups.items()},
    "false_alarms": {
      name: table.false_alarms(of)
      for name, of in _control_groups(table.rows).items()
    },
    "noise": {
      stage: {
        "deviation": deviation,
        "healthy_limit": scoring.limit(deviation, 1, 2),
        "recovered_limit": scoring.limit(deviation, scoring.LAST, scoring.LAST),
      }
      for stage, deviation in table.noise.items()
    },
    "by_kind": _by_kind(table),
  }


def _key(row: Row) -> tuple[Any, ...]:
  return row["stage"], row["watch"], row["seed"], row["total_steps"]


def _share(found: Iterable[bool | None]) -> dict[str, Any]:
  known = [value for value in found if value is not None]
  return wilson(sum(known), len(known))


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Returns the rows of each group of drills with a fault."""
  faults = [row for row in rows if row["fault"]]
  tests: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "unseen kinds": lambda row: not row["seen"],
    "seen kinds": lambda row: row["seen"],
    "unseen, dense": lambda row: not row["seen"] and row["watch"] == "dense",
    "unseen, shipped": lambda row: (
      not row["seen"] and row["watch"] == "shipped"
    ),
  }
  found = {
    name: [row for row in faults if test(row)] for name, test in tests.items()
  }
  for field, suffix in (("family", ", unseen"), ("stage", ", unseen")):
    for value in dict.fromkeys(row[field] for row in faults):
      found[f"{value}{suffix}"] = [
        row for row in faults if row[field] == value and not row["seen"]
      ]
  return {name: of for name, of in found.items() if of}


def _control_groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
  controls = [row for row in rows if not row["fault"]]
  found = {"all": controls}
  for field in ("watch", "stage", "what"):
    for value in dict.fromkeys(row[field] for row in controls):
      found[value] = [row for row in controls if row[field] == value]
  return found


def _by_kind(table: Table) -> dict[str, dict[str, Any]]:
  found: dict[str, dict[str, Any]] = {}
  for what in dict.fromkeys(row["what"] for row in table.rows):
    mine = [row for row in table.rows if row["what"] == what]
    if not mine[0]["fault"]:
      continue
    ratios = [table.ends[row["name"]].ratio for row in mine]
    known = [ratio for ratio in ratios if ratio is not None]
    found[what] = {
      "family": mine[0]["family"],
      "seen": mine[0]["seen"],
      "runs": len(mine),
      "ratio": statistics.median(known) if known else None,
      "alarms": sum(bool(row["alarm"]) for row in mine),
      **table.rates(mine),
    }
  return found


def as_text(scored: Mapping[str, Any]) -> str:
  """Formats the scores as lines of text."""
  runs = scored["runs"]
  lines = [f"{runs['faults']} runs with a fault, {runs['controls']} controls"]
  if runs["lost_controls"]:
    lines.append(f"lost controls: {', '.join(runs['lost_controls'])}")
  for name, rates in scored["rates"].items():
    lines += ["", f"{name}: {_counts_text(rates['faults'])}"]
    lines += [
      f"  {_TITLES[rate]}: {scoring.share_text(rates[rate])}" for rate in RATES
    ]
  lines += ["", "false alarms:"]
  lines += [
    f"  {name}: {scoring.rate_text(rate)}"
    for name, rate in scored["false_alarms"].items()
  ]
  return "\n".join([*lines, "", *_kind_lines(scored)])


def _kind_lines(scored: Mapping[str, Any]) -> list[str]:
  lines = [
    f"{'kind':24} {'family':10}      runs ratio lost alarms seen before delay"
  ]
  for what, of in scored["by_kind"].items():
    ratio = "" if of["ratio"] is None else f"{of['ratio']:.1f}"
    delay = of["delay"]["median"]
    lines.append(
      f"{what:24} {of['family']:10} {'seen' if of['seen'] else '':4} "
      f"{of['runs']:4} {ratio:>5} {of['faults']['lost']:4} {of['alarms']:6} "
      f"{of['recall']['count']:4} {of['in_time']['count']:6} "
      f"{'' if delay is None else format(delay, '.0f'):>5}"
    )
  return lines


def as_markdown(scored: Mapping[str, Any]) -> str:
  """Formats the scores as tables in Markdown."""
  lines = ["| runs | lost, harmed, unharmed | " + " | ".join(_TITLES.values())]
  lines[0] += " |"
  lines.append("|---" * (len(RATES) + 2) + "|")
  for name, rates in scored["rates"].items():
    counts = ", ".join(str(n) for n in rates["faults"].values())
    cells = [scoring.share_text(rates[rate]) for rate in RATES]
    lines.append(f"| {name} | {counts} | {' | '.join(cells)} |")
  lines += ["", "| healthy runs | false alarms (95% interval) |", "|---|---|"]
  lines += [
    f"| {name} | {scoring.rate_text(rate)} |"
    for name, rate in scored["false_alarms"].items()
  ]
  lines += [
    "",
    "| kind | family | known | runs | final distance over the twin's, median "
    "| lost | alarms | lost and seen | before lost | steps to the alarm |",
    "|---" * 10 + "|",
  ]
  for what, of in scored["by_kind"].items():
    ratio = "" if of["ratio"] is None else f"{of['ratio']:.1f}"
    delay = of["delay"]["median"]
    cells = [
      what,
      of["family"],
      "yes" if of["seen"] else "no",
      of["runs"],
      ratio,
      of["faults"]["lost"],
      of["alarms"],
      of["recall"]["count"],
      of["in_time"]["count"],
      "" if delay is None else f"{delay:.0f}",
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return "\n".join(lines)


def _counts_text(counts: Mapping[str, int]) -> str:
  return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
