"""Analyzes the time until runs collapse, at each value of a column.

A run that ended without a collapse is censored: it would have collapsed later
or never. Runs of different lengths can therefore be compared.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import lifetimes
from bigscale.scaling import rows as tables
from bigscale.scaling.lifetimes import Times, Weibull, kaplan_meier
from bigscale.spec import require

# With fewer permutations, the p-value is too coarse to be useful.
_LEAST_PERMUTATIONS = 100
_MOST_PERMUTATIONS = 1_000_000


class LevelSurvival(NamedTuple):
  """Collapses at one value of a column.

  Attributes:
    value: text of the value in the table.
    collapsed: number of runs that collapsed.
    of: number of runs.
    share: Kaplan-Meier estimate of the share that collapses by the horizon.
    interval95: interval of the share.
    median: time by which half of the runs collapsed; None if fewer did.
    median95: interval of the median; an end is None if it is unknown.
  """

  value: str
  collapsed: int
  of: int
  share: float
  interval95: tuple[float, float]
  median: float | None
  median95: tuple[float | None, float | None]


class Survival(NamedTuple):
  """Result of `survival`.

  Attributes:
    column: column that the runs are grouped by.
    time: column of the times of collapse.
    horizon: time up to which runs of every level were observed.
    levels: one entry per value, in increasing order.
    p: two-sided p-value of a permutation test for a trend; None if values are
      not numbers, or no run collapsed. It does not measure how steep the trend
      is.
    weibull: fit of a Weibull law whose times grow as a power of the column;
      None with a reason in `why`.
    why: why there is no fit.
    excluded: {"row", "line", "reason"} of each row that is not a run or whose
      run has not ended.
    filtered: number of rows that the conditions exclude.
  """

  column: str
  time: str
  horizon: float
  levels: list[LevelSurvival]
  p: float | None
  weibull: Weibull | None
  why: str | None
  excluded: list[dict[str, Any]]
  filtered: int


class _Ended(NamedTuple):
  """A run that ended: its value of the column, its time, and how it ended."""

  value: str
  time: float
  collapsed: bool


def survival(
  path: str,
  column: str,
  *,
  status: str,
  time: str,
  until: str,
  where: Sequence[str] = (),
  permutations: int = 4000,
  seed: int = 0,
) -> Survival:
  """Analyzes the times of collapse at each value of a column.

  Args:
    path: path of a CSV file with one row per run.
    column: column to group the runs by.
    status: column of statuses; see `table.Columns`.
    time: column of the times of collapse; read for collapsed runs.
    until: column of the lengths of the runs; read for the others.
    where: conditions on rows; see `table.Columns`.
    permutations: number of permutations of the test for a trend.
    seed: seed of the permutations.

  Raises:
    SpecError: the file or a column does not exist, a status is unknown, a time
      is not a positive number, or no run has ended.
  """
  require(
    _LEAST_PERMUTATIONS <= permutations <= _MOST_PERMUTATIONS,
    f"--resamples={permutations} must be between {_LEAST_PERMUTATIONS} and a "
    "million",
  )
  require(seed >= 0, f"--seed={seed} must be at least 0")
  header, rows = tables.read(path)
  flags = {"x": column, "status": status, "time": time, "until": until}
  tables.check_names(header, flags)
  total = len(rows)
  odd = tables.summaries(header, rows)
  for condition in where:
    rows = tables.matching(header, rows, condition)
  # Without a column of names, different runs may have identical rows.
  if tables.names_runs(header):
    odd |= tables.repeats(header, [r for r in rows if r.number not in odd])
  _check_runs([row for row in rows if row.number not in odd])
  ended, excluded = _split(rows, odd, column, status, (time, until))
  require(
    bool(ended),
    f"{path} has no run that ended: of {total} rows, {total - len(rows)} do "
    f"not meet --where and {len(excluded)} failed, are still running or are "
    "not runs",
  )
  fit, why = _weibull(ended)
  horizon = _horizon(ended)
  return Survival(
    column,
    time,
    horizon,
    _levels(ended, horizon),
    _trend(ended, permutations, seed),
    fit,
    why,
    excluded,
    total - len(rows),
  )


def _split(
  rows: Sequence[tables.TableRow],
  odd: dict[int, str],
  column: str,
  status: str,
  times: tuple[str, str],
) -> tuple[list[_Ended], list[dict[str, Any]]]:
  """Returns the runs that ended, and the records of the other rows."""
  ended: list[_Ended] = []
  excluded = []
  # 1 and 1.0 are the same level; the first spelling names it.
  names: dict[float | str, str] = {}
  for row in rows:
    reason = odd.get(row.number) or tables.status_of(row, status)
    if row.number in odd or reason in tables.LEFT_OUT:
      excluded.append({"row": row.number, "line": row.line, "reason": reason})
    else:
      collapsed = reason in tables.CENSORED
      cell = row.cells[column]
      value = names.setdefault(tables.meaning(cell), cell)
      ended.append(_Ended(value, _time(row, collapsed, *times), collapsed))
  return ended, excluded


def _time(
  row: tables.TableRow, collapsed: bool, time: str, until: str
) -> float:
  """Returns when a run collapsed, or its length if it did not."""
  length = tables.positive(row, until)
  if not collapsed:
    return length
  at = tables.positive(row, time)
  require(
    at <= length,
    f"{row.place}: the run collapsed at {time}={at:g}, after its end at "
    f"{until}={length:g}; correct the table, or name the columns of both times "
    "with --time and --until",
  )
  return at


def _check_runs(rows: list[tables.TableRow]) -> None:
  """Raises SpecError if a run has several rows, each counted as a run."""
  seen: dict[str, tables.TableRow] = {}
  for row in rows:
    run = row.cells.get("run", "")
    require(
      not run or run not in seen,
      f"run {run!r} has {seen[run].place if run in seen else ''} and "
      f"{row.place}, but each row counts as a run; use a table with one row "
      "per run, such as a sweep's runs.csv",
    )
    seen[run] = row


def _times(ended: Sequence[_Ended]) -> Times:
  return Times(
    np.array([one.time for one in ended]),
    np.array([one.collapsed for one in ended]),
  )


def _of_levels(ended: Sequence[_Ended]) -> dict[str, list[_Ended]]:
  values = sorted({one.value for one in ended}, key=_order)
  return {
    value: [one for one in ended if one.value == value] for value in values
  }


def _order(value: str) -> tuple[bool, float, str]:
  number = tables.number(value)
  return number is None, number or 0.0, value


def _horizon(ended: Sequence[_Ended]) -> float:
  """Returns the latest time at which the share is known at every level."""
  reach = [
    max(one.time for one in level)
    for level in _of_levels(ended).values()
    # If all runs of a level collapsed, its share is 1 at all later times.
    if not all(one.collapsed for one in level)
  ]
  return min(reach) if reach else max(one.time for one in ended)


def _levels(ended: Sequence[_Ended], horizon: float) -> list[LevelSurvival]:
  found = []
  for value, runs in _of_levels(ended).items():
    times = _times(runs)
    last = kaplan_meier(times, horizon)
    whole = kaplan_meier(times, float(times.of.max()))
    low, median, high = (
      _first(whole.time, share <= 0.5)
      for share in (whole.low, whole.alive, whole.high)
    )
    found.append(
      LevelSurvival(
        value,
        int(times.collapsed.sum()),
        len(runs),
        1 - float(last.alive[-1]),
        (1 - float(last.high[-1]), 1 - float(last.low[-1])),
        median,
        (low if low in times.of[times.collapsed] else None, high),
      )
    )
  return found


def _first(time: np.ndarray, holds: np.ndarray) -> float | None:
  return float(time[holds.argmax()]) if holds.any() else None


def _numbers(ended: Sequence[_Ended]) -> np.ndarray | None:
  """Returns the values as numbers; None if one is not, or all are equal."""
  numbers = [tables.number(one.value) for one in ended]
  if None in numbers or len(set(numbers)) < 2:
    return None
  return np.array(numbers, float)


def _trend(
  ended: Sequence[_Ended], permutations: int, seed: int
) -> float | None:
  """Returns the p-value of a log-rank test for a trend in the values' ranks."""
  numbers, times = _numbers(ended), _times(ended)
  if numbers is None or not times.collapsed.any():
    return None
  rank = np.unique(numbers, return_inverse=True)[1].astype(float)
  at = times.of[times.collapsed]
  risk = times.of >= at[:, None]
  # At each collapse: the rank of the run less the mean rank of those at risk.
  # The sum over collapses is linear in the ranks.
  linear = times.collapsed - (risk / risk.sum(1, keepdims=True)).sum(0)
  if np.allclose(linear, 0):
    return None
  draw = np.random.default_rng(seed)
  seen = abs(linear @ rank)
  as_far = sum(
    abs(linear @ draw.permutation(rank)) >= seen - 1e-9
    for _ in range(permutations)
  )
  # The observed assignment counts as one permutation.
  return (as_far + 1) / (permutations + 1)


def _weibull(ended: Sequence[_Ended]) -> tuple[Weibull | None, str | None]:
  numbers, times = _numbers(ended), _times(ended)
  if numbers is None or (numbers <= 0).any():
    return None, "the values are not several positive numbers"
  lost = int(times.collapsed.sum())
  if lost < lifetimes.LEAST_COLLAPSED:
    return None, (
      f"{lost} runs collapsed, and at least {lifetimes.LEAST_COLLAPSED} are "
      "needed"
    )
  if len(np.unique(times.of[times.collapsed])) < 2:
    return None, "all collapses have the same time"
  return lifetimes.fit_weibull(times, numbers), None


def as_text(found: Survival) -> str:
  """Returns a table with one line per level, the trend and the Weibull fit."""
  width = max(len(found.column), *(len(one.value) for one in found.levels))
  lines = [
    f"{found.column:{width}}  collapsed  share by {found.horizon:g} (95%)  "
    f"median {found.time} (95%)"
  ]
  for one in found.levels:
    low, high = one.interval95
    share = f"{one.share:.0%} ({low:.0%} to {high:.0%})"
    lines.append(
      f"{one.value:{width}}  {f'{one.collapsed} of {one.of}':9}  {share:22} "
      f" {_median(one)}"
    )
  if not any(one.collapsed for one in found.levels):
    lines += ["", "no run collapsed: the times of collapse are unknown"]
  if found.p is not None:
    lines += ["", f"trend: p = {found.p:.2g} (log-rank, permuted over runs)"]
  if found.weibull is not None:
    fit = found.weibull
    lines.append(
      f"Weibull: times of collapse grow as {found.column}^{fit.power:.3g} "
      f"({_range(fit.power95)}); shape {fit.shape:.3g} "
      f"({_range(fit.shape95)}; below 1, early collapses are more likely)"
    )
  elif found.why:
    lines.append(f"no Weibull fit: {found.why}")
  lines += [
    f"excluded: row {one['row']} (line {one['line']}), {one['reason']}"
    for one in found.excluded
  ]
  if found.filtered:
    lines.append(f"{found.filtered} rows do not meet --where")
  return "\n".join(lines)


def _median(one: LevelSurvival) -> str:
  if one.median is None:
    low = one.median95[0]
    return "not reached" + (f" (at least {low:g})" if low else "")
  return f"{one.median:g} ({_range(one.median95)})"


def _range(ends: tuple[float | None, float | None]) -> str:
  low, high = ends
  if low is None and high is None:
    return "unknown"
  if low is None:
    return f"at most {high:.4g}"
  return f"at least {low:.4g}" if high is None else f"{low:.4g} to {high:.4g}"
