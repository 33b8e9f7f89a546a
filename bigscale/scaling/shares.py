"""Counts the runs that collapsed at each value of a column."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.monitor.scoring import wilson
from bigscale.scaling import rows as tables
from bigscale.spec import require

# With fewer permutations, the p-value is too coarse to be useful.
_LEAST_PERMUTATIONS = 100
_MOST_PERMUTATIONS = 1_000_000


class LevelShare(NamedTuple):
  """Share of collapsed runs at one value of a column.

  Attributes:
    value: text of the value in the table.
    collapsed: number of runs that collapsed.
    of: number of runs.
    share: collapsed / of.
    interval95: Wilson interval (1927) of the share.
  """

  value: str
  collapsed: int
  of: int
  share: float
  interval95: tuple[float, float]


class Shares(NamedTuple):
  """Result of `shares`.

  Attributes:
    column: column that the runs are grouped by.
    levels: one entry per value, in increasing order.
    p: two-sided p-value of a permutation test for a trend; None if values are
      not numbers, or all runs ended in the same way. It does not measure how
      steep the trend is.
    excluded: {"row", "line", "reason"} of each row that is not a run or whose
      run has not ended.
    filtered: number of rows that the conditions exclude.
  """

  column: str
  levels: list[LevelShare]
  p: float | None
  excluded: list[dict[str, Any]]
  filtered: int


def shares(
  path: str,
  column: str,
  *,
  status: str,
  where: Sequence[str] = (),
  permutations: int = 4000,
  seed: int = 0,
) -> Shares:
  """Counts the runs that collapsed at each value of a column.

  Args:
    path: path of a CSV file with one row per run.
    column: column to group the runs by.
    status: column of statuses; see `table.Columns`.
    where: conditions on rows; see `table.Columns`.
    permutations: number of permutations of the test for a trend.
    seed: seed of the permutations.

  Raises:
    SpecError: the file or a column does not exist, a status is unknown, or no
      run has ended.
  """
  require(
    _LEAST_PERMUTATIONS <= permutations <= _MOST_PERMUTATIONS,
    f"--resamples={permutations} must be between {_LEAST_PERMUTATIONS} and a "
    "million",
  )
  require(seed >= 0, f"--seed={seed} must be at least 0")
  header, rows = tables.read(path)
  tables.check_names(header, {"x": column, "status": status})
  total = len(rows)
  odd = tables.summaries(header, rows)
  for condition in where:
    rows = tables.matching(header, rows, condition)
  # Without a column of names, different runs may have identical rows.
  if tables.names_runs(header):
    odd |= tables.repeats(header, [r for r in rows if r.number not in odd])
  _check_runs([row for row in rows if row.number not in odd])
  ended: list[tuple[str, bool]] = []
  excluded = []
  for row in rows:
    reason = odd.get(row.number) or tables.status_of(row, status)
    if row.number in odd or reason in tables.LEFT_OUT:
      excluded.append({"row": row.number, "line": row.line, "reason": reason})
    else:
      ended.append((row.cells[column], reason in tables.CENSORED))
  require(
    bool(ended),
    f"{path} has no run that ended: of {total} rows, {total - len(rows)} do "
    f"not meet --where and {len(excluded)} failed, are still running or are "
    "not runs",
  )
  return Shares(
    column,
    _levels(ended),
    _trend(ended, permutations, seed),
    excluded,
    total - len(rows),
  )


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


def _levels(ended: list[tuple[str, bool]]) -> list[LevelShare]:
  # 1 and 1.0 are the same level; the first spelling names it.
  names: dict[float | str, str] = {}
  ended = [
    (names.setdefault(tables.meaning(value), value), collapsed)
    for value, collapsed in ended
  ]
  values = sorted({value for value, _ in ended}, key=_order)
  levels = []
  for value in values:
    lost = [collapsed for other, collapsed in ended if other == value]
    found = wilson(sum(lost), len(lost))
    levels.append(
      LevelShare(
        value, sum(lost), len(lost), found["share"], tuple(found["interval95"])
      )
    )
  return levels


def _order(value: str) -> tuple[bool, float, str]:
  number = tables.number(value)
  return number is None, number or 0.0, value


def _trend(
  ended: list[tuple[str, bool]], permutations: int, seed: int
) -> float | None:
  """Returns the p-value of a permutation test on collapsed runs' ranks."""
  numbers = [tables.number(value) for value, _ in ended]
  lost = np.array([collapsed for _, collapsed in ended])
  if None in numbers or lost.all() or not lost.any():
    return None
  rank = np.unique(np.array(numbers), return_inverse=True)[1].astype(float)
  rank -= rank.mean()
  if not rank.any():
    return None
  draw = np.random.default_rng(seed)
  seen = abs(rank[lost].sum())
  as_far = sum(
    abs(rank[draw.permutation(lost)].sum()) >= seen - 1e-9
    for _ in range(permutations)
  )
  # The observed assignment counts as one permutation.
  return (as_far + 1) / (permutations + 1)


def as_text(found: Shares) -> str:
  """Returns a table with one line per level, and the trend."""
  width = max(len(found.column), *(len(one.value) for one in found.levels))
  lines = [f"{found.column:{width}}  collapsed  share (95% interval)"]
  for one in found.levels:
    low, high = one.interval95
    lines.append(
      f"{one.value:{width}}  {f'{one.collapsed} of {one.of}':9}  "
      f"{one.share:.0%} ({low:.0%} to {high:.0%})"
    )
  if found.p is not None:
    lines += ["", f"trend: p = {found.p:.2g} (permutation test over runs)"]
  lines += [
    f"excluded: row {one['row']} (line {one['line']}), {one['reason']}"
    for one in found.excluded
  ]
  if found.filtered:
    lines.append(f"{found.filtered} rows do not meet --where")
  return "\n".join(lines)
