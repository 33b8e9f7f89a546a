"""How many runs collapsed, at each level of what was varied."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.monitor.scoring import wilson
from bigscale.scaling import rows as tables
from bigscale.spec import require

# Fewer would leave the p-value coarser than anybody reads it.
_LEAST_PERMUTATIONS = 100
_MOST_PERMUTATIONS = 1_000_000


class LevelShare(NamedTuple):
  """The runs of one value of a column.

  Attributes:
    value: of the column, as the table has it.
    collapsed: how many of them did.
    of: how many there are.
    share: collapsed / of.
    interval95: Wilson's (1927), of the share.
  """

  value: str
  collapsed: int
  of: int
  share: float
  interval95: tuple[float, float]


class Shares(NamedTuple):
  """What `shares` found.

  Attributes:
    column: that the runs are sorted by.
    levels: in the order of their values, numbers by size.
    p: how often runs dealt out to the levels at random lean as much to one
      end, either one; None where values are no numbers or all runs ended alike.
      It says whether there is a trend, not how steep it is.
    excluded: each row that is no run, or of none that ended: row, line,
      reason.
    filtered: how many rows the conditions leave out.
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
  """Counts the runs that collapsed.

  Args:
    path: of a CSV file, a row a run.
    column: what they differ in.
    status: the column of `done`, `collapsed` and so on; see `table.Columns`.
    where: conditions, as of `table.Columns`.
    permutations: of the test for a trend.
    seed: of them.

  Raises:
    SpecError: the file or a column is not there, a status is unknown, or no run
      has ended.
  """
  require(
    _LEAST_PERMUTATIONS <= permutations <= _MOST_PERMUTATIONS,
    f"--resamples={permutations} must be {_LEAST_PERMUTATIONS} or more, to a "
    "million",
  )
  require(seed >= 0, f"--seed={seed} must not be negative")
  header, rows = tables.read(path)
  tables.check_names(header, {"x": column, "status": status})
  total = len(rows)
  odd = tables.summaries(header, rows)
  for condition in where:
    rows = tables.matching(header, rows, condition)
  # Without a name two runs may be alike in all that a table says.
  if tables.names_runs(header):
    odd |= tables.repeats(header, [r for r in rows if r.number not in odd])
  _check_runs([row for row in rows if row.number not in odd])
  ended: list[tuple[str, bool]] = []
  excluded = []
  for row in rows:
    said = odd.get(row.number) or tables.status_of(row, status)
    if row.number in odd or said in tables.LEFT_OUT:
      reason = {"row": row.number, "line": row.line, "reason": said}
      excluded.append(reason)
    else:
      ended.append((row.cells[column], said in tables.CENSORED))
  require(
    bool(ended),
    f"{path} has no run that ended: of {total} rows, {total - len(rows)} do "
    f"not meet --where and {len(excluded)} failed, are "
    "running or are no runs",
  )
  return Shares(
    column,
    _levels(ended),
    _trend(ended, permutations, seed),
    excluded,
    total - len(rows),
  )


def _check_runs(rows: list[tables.TableRow]) -> None:
  """Refuses several rows of one run: they would be counted as runs."""
  seen: dict[str, tables.TableRow] = {}
  for row in rows:
    run = row.cells.get("run", "")
    require(
      not run or run not in seen,
      f"run {run!r} has {seen[run].place if run in seen else ''} and "
      f"{row.place}, and shares counts runs: give a table with a row a run, as "
      "runs.csv of a sweep",
    )
    seen[run] = row


def _levels(ended: list[tuple[str, bool]]) -> list[LevelShare]:
  # 1 and 1.0 are one level, by the name of the first.
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
  """Permutation test of the mean rank of runs that collapsed."""
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
  # What was seen is one of the ways to deal them out.
  return (as_far + 1) / (permutations + 1)


def as_text(found: Shares) -> str:
  """A line a level, and the trend."""
  width = max(len(found.column), *(len(one.value) for one in found.levels))
  lines = [f"{found.column:{width}}  collapsed  share (95% interval)"]
  for one in found.levels:
    low, high = one.interval95
    lines.append(
      f"{one.value:{width}}  {f'{one.collapsed} of {one.of}':9}  "
      f"{one.share:.0%} ({low:.0%} to {high:.0%})"
    )
  if found.p is not None:
    lines += ["", f"trend: p = {found.p:.2g} (permutations of runs)"]
  lines += [
    f"left out: row {one['row']} (line {one['line']}), {one['reason']}"
    for one in found.excluded
  ]
  if found.filtered:
    lines.append(f"{found.filtered} rows do not meet --where")
  return "\n".join(lines)
