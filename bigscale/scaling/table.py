"""Selects what a law is fitted to: rows of runs, or of their checkpoints."""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from bigscale.scaling.laws import Points, Selection
from bigscale.scaling.rows import (
  CENSORED,
  LEFT_OUT,
  TableRow,
  check_names,
  identity,
  matching,
  number,
  read,
  repeats,
  status_of,
  summaries,
)
from bigscale.spec import require

_DERIVED = re.compile(r"flops/(\d*\.?\d*)x")


@dataclasses.dataclass(frozen=True)
class Columns:
  """Which columns mean what.

  Attributes:
    x: the law's first variable.
    y: what falls with it.
    x2: the second variable, or `flops/6x` for compute / (6 x); "" for none.
    flops: compute; x, or x times x2, stands for it where "".
    group: one id a trained run; "" where each row is one.
    status: done (or empty), collapsed, failed, running; "" where all are done.
    where: conditions as `model=r3gan` or `params>=1e6`; all must hold.
    drop_worst: how many rows with the highest y to leave out.
    protocol: columns in which rows must agree.
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


def select(path: str, columns: Columns) -> Selection:
  """Reads the runs that count from a table.

  Args:
    path: of a CSV file.
    columns: which mean what.

  Raises:
    SpecError: the file or a column is not there, a cell is no positive number
      (row and column are named), a status is unknown, runs were scored by
      different protocols, or nothing is left.
  """
  require(
    columns.drop_worst >= 0,
    f"--drop_worst={columns.drop_worst} is negative; use 0 or more rows",
  )
  header, rows = read(path)
  factor = _factor(columns)
  _check_columns(header, columns, factor)
  total = len(rows)
  odd = summaries(header, rows, columns.group)
  for condition in columns.where:
    rows = matching(header, rows, condition)
  filtered = total - len(rows)
  rows, excluded = _without(rows, odd, columns)
  rows, ended = _by_status(rows, columns)
  rows, again = _without(rows, repeats(header, rows), columns)
  rows, worst = _drop_worst(rows, columns)
  excluded = sorted(
    [*excluded, *ended, *again, *worst], key=lambda entry: entry["row"]
  )
  require(
    bool(rows),
    f"{path} has no run to fit: of {total} rows, {filtered} do not meet "
    f"--where and {len(excluded)} are left out"
    + (f" ({excluded[0]['reason']})" if excluded else "")
    + "; fit at least a few finished runs",
  )
  return Selection(
    _points(rows, columns, factor),
    _names(columns, factor),
    excluded,
    filtered,
    columns.group or None,
    factor,
    _protocol(rows, columns),
    _notes(header, rows, columns),
  )


def _without(
  rows: list[TableRow], reasons: dict[int, str], columns: Columns
) -> tuple[list[TableRow], list[dict[str, Any]]]:
  """The rows that there is nothing to say of, and the others."""
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
  """What a reader should know of the rows that are fitted."""
  said = []
  # Column of a sweep's tables.
  old = sum(row.cells.get("in_config") == "no" for row in rows)
  if old:
    said.append(
      f"{old} rows are of runs that the sweep's config does not name any more; "
      "--where=in_config=yes leaves them out"
    )
  if not columns.group and "run" in header:
    runs = len({row.cells["run"] for row in rows})
    if runs < len(rows):
      said.append(
        f"column 'run' names {runs} runs in {len(rows)} rows: give --group=run"
      )
  return tuple(said)


def _factor(columns: Columns) -> float | None:
  """K of `flops/kx`; None where x2 is a column or absent."""
  if not columns.x2.startswith("flops/"):
    return None
  derived = _DERIVED.fullmatch(columns.x2)
  factor = float(derived[1] or 1) if derived and derived[1] != "." else 0.0
  require(
    factor > 0,
    f"--x2={columns.x2} must be a column or flops/Kx with K above 0, as "
    "flops/6x",
  )
  require(
    bool(columns.flops),
    f"--x2={columns.x2} needs the column of compute; give --flops=COLUMN",
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
  require(
    columns.y not in (columns.x, columns.x2),
    f"--y={columns.y} is a variable too; y falls with another column",
  )
  require(
    columns.x2 != columns.x,
    f"--x2={columns.x2} is --x again; two variables are two columns",
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
      excluded.append(row.left_out(f"{status} before any value", columns.y))
    else:
      kept.append(row)
  return kept, excluded


def _drop_worst(
  rows: list[TableRow], columns: Columns
) -> tuple[list[TableRow], list[dict[str, Any]]]:
  if not columns.drop_worst:
    return rows, []
  done = [row for row in rows if status_of(row, columns.status) not in CENSORED]
  done.sort(key=lambda row: -_positive(row, columns.y))
  worst = {row.number for row in done[: columns.drop_worst]}
  reason = f"one of the {columns.drop_worst} highest"
  return (
    [row for row in rows if row.number not in worst],
    [row.left_out(reason, columns.y) for row in rows if row.number in worst],
  )


def _points(
  rows: list[TableRow], columns: Columns, factor: float | None
) -> Points:
  def column(name: str) -> np.ndarray:
    return np.array([_positive(row, name) for row in rows])

  x = column(columns.x)
  variables = {"x": x}
  compute = column(columns.flops) if columns.flops else x
  # What is too large or too small is refused below, with its row.
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
      f"{', '.join(f'{value:g}' for value in values)}; products and quotients "
      "of the columns must be positive numbers, too",
    )
  group = np.arange(len(rows))
  if columns.group:
    names = [identity(row.cells[columns.group]) for row in rows]
    for row, name in zip(rows, names, strict=True):
      require(
        bool(name),
        f"{row.place}, column {columns.group!r} is empty; give every row the "
        "id of the run it is of",
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
        f"{row.cells[name]!r} in {row.place}; scores of different protocols do "
        "not compare: choose one with --where",
      )
    found[name] = first.cells[name]
  return found


def _positive(row: TableRow, name: str) -> float:
  text = row.cells[name]
  value = number(text)
  require(
    value is not None and math.isfinite(value) and value > 0,
    f"{row.place}, column {name!r}: {text!r} is no positive number, and a law "
    "is fitted to logs; mend it, or leave the row out with --status or --where",
  )
  return value
