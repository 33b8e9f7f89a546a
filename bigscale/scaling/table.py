"""Selects the rows that a law is fitted to: runs or their checkpoints."""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from bigscale.scaling.laws import Points
from bigscale.scaling.rows import (
  CENSORED,
  LEFT_OUT,
  TableRow,
  check_names,
  identity,
  is_missing,
  matching,
  positive,
  read,
  repeats,
  status_of,
  summaries,
)
from bigscale.scaling.selection import Selection
from bigscale.scaling.tuning import tuning
from bigscale.spec import require

_DERIVED = re.compile(r"flops/(\d*\.?\d*)x")


@dataclasses.dataclass(frozen=True)
class Columns:
  """Columns of a table and the selection of its rows.

  Attributes:
    x: column of the law's first variable.
    y: column of the quantity that falls with x.
    x2: column of the second variable, or `flops/6x` for compute / (6 x); "" for
      none.
    flops: column of compute; "" uses x, or x times x2.
    group: column with one id per trained run; "" if each row is a run.
    status: column of statuses: done (or empty), collapsed, failed, running; ""
      if all runs are done.
    where: conditions such as `model=r3gan` or `params>=1e6`; all must hold.
    drop_worst: number of rows with the highest y to exclude.
    protocol: columns in which all rows must agree.
    best_over: tuned columns, such as `g_lr`. At each x and x2, only the rows of
      the best setting of these columns are fitted.
    decimal_comma: whether numbers are written like 1,5.
    drop_missing: whether to exclude finished rows in which y or a variable is
      missing: empty, nan, NA, None or null.
  """

  x: str
  y: str
  x2: str = ""
  flops: str = ""
  group: str = ""
  status: str = ""
  where: tuple[str, ...] = ()
  drop_worst: int = 0
  protocol: tuple[str, ...] = ()
  best_over: tuple[str, ...] = ()
  decimal_comma: bool = False
  drop_missing: bool = False


def select(path: str, columns: Columns) -> Selection:
  """Selects the rows to fit from a table.

  Args:
    path: path of a CSV file.
    columns: columns of the table and the selection of its rows.

  Raises:
    SpecError: the file or a column does not exist, a cell is not a positive
      number (the message names row and column), a status is unknown, runs were
      scored by different protocols, or no row is left.
  """
  require(
    columns.drop_worst >= 0,
    f"--drop_worst={columns.drop_worst} must be at least 0",
  )
  header, rows = read(path, decimal_comma=columns.decimal_comma)
  factor = _factor(columns)
  _check_columns(header, columns, factor)
  total = len(rows)
  odd = summaries(header, rows, columns.group)
  for condition in columns.where:
    rows = matching(header, rows, condition)
  filtered = total - len(rows)
  rows, excluded = _without(rows, odd, columns)
  rows, ended = _by_status(rows, columns)
  rows, gaps = _without(rows, _gaps(rows, columns), columns)
  rows, again = _without(rows, repeats(header, rows), columns)
  rows, worst = _drop_worst(rows, columns)
  excluded = sorted(
    [*excluded, *ended, *gaps, *again, *worst], key=lambda entry: entry["row"]
  )
  require(
    bool(rows),
    f"{path} has no run to fit: of {total} rows, {filtered} do not meet "
    f"--where and {len(excluded)} are excluded"
    + (f" (the first: {excluded[0]['reason']})" if excluded else "")
    + "; select at least a few finished runs",
  )
  points, tuned = _points(rows, columns, factor), None
  if columns.best_over:
    tuned = tuning(points, rows, columns.best_over)
    best = tuned.best()
    points = points.take(best)
    rows = [row for row, chosen in zip(rows, best, strict=True) if chosen]
  return Selection(
    points,
    _names(columns, factor),
    excluded,
    filtered,
    columns.group or None,
    factor,
    _protocol(rows, columns),
    (*_notes(header, rows, columns), *_of_gaps(gaps, columns)),
    tuned,
  )


def _without(
  rows: list[TableRow], reasons: dict[int, str], columns: Columns
) -> tuple[list[TableRow], list[dict[str, Any]]]:
  """Splits rows into those without a reason and records of the others."""
  return (
    [row for row in rows if row.number not in reasons],
    [
      row.left_out(reasons[row.number], columns.y)
      for row in rows
      if row.number in reasons
    ],
  )


def _notes(
  header: list[str], rows: list[TableRow], columns: Columns
) -> tuple[str, ...]:
  """Returns messages about the rows that are fitted."""
  notes = []
  # `in_config` and `run` are columns of a sweep's tables.
  old = sum(row.cells.get("in_config") == "no" for row in rows)
  if old:
    notes.append(
      f"{old} rows come from runs that the sweep's config no longer names; "
      "--where=in_config=yes excludes them"
    )
  if not columns.group and "run" in header:
    runs = len({row.cells["run"] for row in rows})
    if runs < len(rows):
      notes.append(
        f"column 'run' names {runs} runs in {len(rows)} rows; pass --group=run"
      )
  return tuple(notes)


def _factor(columns: Columns) -> float | None:
  """Returns k of `flops/kx`, or None if x2 is a column or absent."""
  if not columns.x2.startswith("flops/"):
    return None
  derived = _DERIVED.fullmatch(columns.x2)
  factor = float(derived[1] or 1) if derived and derived[1] != "." else 0.0
  require(
    factor > 0,
    f"--x2={columns.x2} must be a column, or flops/Kx with K above 0, such as "
    "flops/6x",
  )
  require(
    bool(columns.flops),
    f"--x2={columns.x2} needs the column of compute; pass --flops=COLUMN",
  )
  return factor


def _check_columns(
  header: list[str], columns: Columns, factor: float | None
) -> None:
  wanted = {
    "x": columns.x,
    "y": columns.y,
    "x2": columns.x2 if factor is None else "",
    "flops": columns.flops,
    "group": columns.group,
    "status": columns.status,
  }
  given = {k: v for k, v in wanted.items() if v or k in ("x", "y")}
  check_names(header, given)
  for name in columns.protocol:
    check_names(header, {"protocol": name})
  for name in columns.best_over:
    check_names(header, {"best_over": name})
    require(
      name not in given.values(),
      f"--best_over={name} is already the column of another flag; name columns "
      "of settings that were tuned",
    )
  require(
    columns.y not in (columns.x, columns.x2),
    f"--y={columns.y} is also a variable of the law; choose another column",
  )
  require(
    columns.x2 != columns.x,
    f"--x2={columns.x2} is the same column as --x; choose another one",
  )


def _by_status(
  rows: list[TableRow], columns: Columns
) -> tuple[list[TableRow], list[dict[str, Any]]]:
  kept, excluded = [], []
  for row in rows:
    status = status_of(row, columns.status)
    if status in LEFT_OUT:
      excluded.append(row.left_out(status, columns.y))
    elif status in CENSORED and not row.cells[columns.y]:
      excluded.append(
        row.left_out(f"{status} before the first value", columns.y)
      )
    else:
      kept.append(row)
  return kept, excluded


def _gaps(rows: list[TableRow], columns: Columns) -> dict[int, str]:
  """Returns why rows are incomplete, by row number, if they may be excluded."""
  if not columns.drop_missing:
    return {}
  x2 = "" if columns.x2.startswith("flops/") else columns.x2
  names = [name for name in (columns.y, columns.x, x2, columns.flops) if name]
  found = {}
  for row in rows:
    gap = next((name for name in names if is_missing(row.cells[name])), None)
    if gap is not None:
      found[row.number] = f"{gap} is missing"
  return found


def _of_gaps(gaps: list[dict[str, Any]], columns: Columns) -> tuple[str, ...]:
  count = sum(entry["reason"] == f"{columns.y} is missing" for entry in gaps)
  if not count:
    return ()
  return (
    f"{count} finished rows have no {columns.y} and are excluded; if such runs "
    "diverged, the law is of lucky runs: mark them as collapsed in --status",
  )


def _drop_worst(
  rows: list[TableRow], columns: Columns
) -> tuple[list[TableRow], list[dict[str, Any]]]:
  if not columns.drop_worst:
    return rows, []
  done = [row for row in rows if status_of(row, columns.status) not in CENSORED]
  done.sort(key=lambda row: -positive(row, columns.y))
  worst = {row.number for row in done[: columns.drop_worst]}
  reason = f"excluded by --drop_worst={columns.drop_worst}"
  return (
    [row for row in rows if row.number not in worst],
    [row.left_out(reason, columns.y) for row in rows if row.number in worst],
  )


def _points(
  rows: list[TableRow], columns: Columns, factor: float | None
) -> Points:
  def column(name: str) -> np.ndarray:
    return np.array([positive(row, name) for row in rows])

  x = column(columns.x)
  variables = {"x": x}
  compute = column(columns.flops) if columns.flops else x
  # Overflow and underflow are reported below, with the row.
  with np.errstate(over="ignore", under="ignore"):
    if factor is not None:
      variables["x2"] = compute / (factor * x)
    elif columns.x2:
      variables["x2"] = column(columns.x2)
      if not columns.flops:
        compute = x * variables["x2"]
  variables["C"] = compute
  for row, *values in zip(rows, *variables.values(), strict=True):
    require(
      all(math.isfinite(value) and value > 0 for value in values),
      f"{row.place}: {', '.join(variables)} are "
      f"{', '.join(f'{value:g}' for value in values)}, but products and "
      "quotients of the columns must be positive finite numbers too",
    )
  group = np.arange(len(rows))
  if columns.group:
    names = [identity(row.cells[columns.group]) for row in rows]
    for row, name in zip(rows, names, strict=True):
      require(
        bool(name),
        f"{row.place}, column {columns.group!r} is empty; fill in the id of "
        "the row's run",
      )
    group = np.unique(names, return_inverse=True)[1]
  censored = [status_of(row, columns.status) in CENSORED for row in rows]
  return Points(
    variables,
    column(columns.y),
    np.array(censored),
    group,
    np.array([row.number for row in rows]),
  )


def _names(columns: Columns, factor: float | None) -> dict[str, str]:
  names = {"x": columns.x, "y": columns.y, "C": columns.flops or columns.x}
  if factor is not None:
    names["x2"] = f"{columns.flops} / ({factor:g} {columns.x})"
  elif columns.x2:
    names["x2"] = columns.x2
    names["C"] = columns.flops or f"{columns.x} {columns.x2}"
  return names


def _protocol(rows: list[TableRow], columns: Columns) -> dict[str, str]:
  found = {}
  for name in columns.protocol:
    first = rows[0]
    for row in rows:
      require(
        row.cells[name] == first.cells[name],
        f"--protocol: {name!r} is {first.cells[name]!r} in {first.place} but "
        f"{row.cells[name]!r} in {row.place}, and scores of different "
        "protocols are not comparable; select one protocol with --where",
      )
    found[name] = first.cells[name]
  return found
