"""Reads a runs table: CSV with a header, one row a run or a checkpoint."""

import csv
import dataclasses
import math
import operator
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling.points import Points, Selection
from bigscale.spec import SpecError, require

# A run that diverged has collapsed, by another name.
CENSORED = ("collapsed", "diverged")
_COUNTED = ("done", *CENSORED)
LEFT_OUT = ("failed", "running")
_COMPARE = {
  "<=": operator.le,
  ">=": operator.ge,
  "!=": operator.ne,
  "=": operator.eq,
  "<": operator.lt,
  ">": operator.gt,
  # A word of several, as blocks of a sweep are written.
  "~": lambda cell, word: word in cell.split("+"),
}
_WHERE = re.compile(r"(.+?)(<=|>=|!=|=|<|>|~)(.*)")
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


class Row(NamedTuple):
  """A row with the number and the line that a reader would look for."""

  number: int
  line: int
  cells: dict[str, str]

  @property
  def place(self) -> str:
    """For messages."""
    return f"row {self.number} (line {self.line})"

  def left_out(self, reason: str, y: str) -> dict[str, Any]:
    """Says so, and its y where that is a number."""
    # What a failed run has in that cell is anybody's guess.
    try:
      value = float(self.cells[y])
    except ValueError:
      value = math.nan
    return {
      "row": self.number,
      "line": self.line,
      "y": value if math.isfinite(value) else None,
      "reason": reason,
    }


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
  for condition in columns.where:
    rows = matching(header, rows, condition)
  filtered = total - len(rows)
  rows, excluded = _by_status(rows, columns)
  rows, worst = _drop_worst(rows, columns)
  excluded = sorted([*excluded, *worst], key=lambda entry: entry["row"])
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
  )


def read(path: str) -> tuple[list[str], list[Row]]:
  """Names of the columns, and the rows, of a table.

  Raises:
    SpecError: it cannot be read or has none.
  """
  try:
    with pathlib.Path(path).open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      header = [name.strip() for name in next(reader, [])]
      lines = [(reader.line_num, cells) for cells in reader if any(cells)]
  except OSError as error:
    raise SpecError(
      f"{path} cannot be read ({error.strerror}); give the path of a CSV file"
    ) from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise SpecError(
      f"{path} is no CSV file in UTF-8 ({error}); export the runs table as one"
    ) from None
  require(
    bool(header) and bool(lines),
    f"{path} has {'no rows below its header' if header else 'nothing in it'}; "
    "a runs table has a header of column names and a row for each run",
  )
  rows = []
  for number, (line, cells) in enumerate(lines, start=1):
    require(
      len(cells) == len(header),
      f"{path}, row {number} (line {line}) has {len(cells)} cells, the header "
      f"{len(header)}; quote cells with commas in them",
    )
    stripped = (cell.strip() for cell in cells)
    rows.append(Row(number, line, dict(zip(header, stripped, strict=True))))
  return header, rows


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


def check_names(header: list[str], flags: Mapping[str, str]) -> None:
  """Refuses what is no column, or several.

  Args:
    header: names of the columns.
    flags: by flag, the column that it names.
  """
  for flag, name in flags.items():
    require(
      name in header,
      f"--{flag}={name} is no column of the table; it has {', '.join(header)}",
    )
    require(
      header.count(name) == 1,
      f"--{flag}={name} is the name of {header.count(name)} columns; rename "
      "all but one",
    )


def matching(header: list[str], rows: list[Row], condition: str) -> list[Row]:
  """The rows that meet a condition of `Columns.where`."""
  found = _WHERE.fullmatch(condition)
  require(
    found is not None,
    f"--where={condition} must be COLUMN=VALUE, or with one of "
    f"{' '.join(_COMPARE)}",
  )
  name, sign, wanted = (part.strip() for part in found.groups())
  require(
    name in header,
    f"--where={condition}: {name!r} is no column of the table; it has "
    f"{', '.join(header)}",
  )
  order = sign in ("<", ">", "<=", ">=")
  require(
    not order or number(wanted) is not None,
    f"--where={condition}: {wanted!r} is no number to compare with",
  )

  def holds(row: Row) -> bool:
    cell = row.cells[name]
    numbers = number(cell), number(wanted)
    if None not in numbers and sign != "~":
      return _COMPARE[sign](*numbers)
    return not order and _COMPARE[sign](cell, wanted)

  return [row for row in rows if holds(row)]


def _by_status(
  rows: list[Row], columns: Columns
) -> tuple[list[Row], list[dict[str, Any]]]:
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


def status_of(row: Row, column: str) -> str:
  """The first word of a row's status: it may go on as `collapsed at 4000`.

  Args:
    row: of a table.
    column: of statuses; "" where all are done.

  Raises:
    SpecError: the word is none.
  """
  if not column:
    return "done"
  status = (row.cells[column].lower().split() or ["done"])[0]
  require(
    status in (*_COUNTED, *LEFT_OUT),
    f"{row.place}, column {column!r}: {status!r} is no status; use "
    f"{', '.join((*_COUNTED, *LEFT_OUT))}",
  )
  return status


def _drop_worst(
  rows: list[Row], columns: Columns
) -> tuple[list[Row], list[dict[str, Any]]]:
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


def _points(rows: list[Row], columns: Columns, factor: float | None) -> Points:
  def column(name: str) -> np.ndarray:
    return np.array([_positive(row, name) for row in rows])

  x = column(columns.x)
  variables = {"x": x}
  compute = column(columns.flops) if columns.flops else x
  if factor is not None:
    variables["x2"] = compute / (factor * x)
  elif columns.x2:
    variables["x2"] = column(columns.x2)
    if not columns.flops:
      compute = x * variables["x2"]
  variables["C"] = compute
  group = np.arange(len(rows))
  if columns.group:
    names = [row.cells[columns.group] for row in rows]
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


def _protocol(rows: list[Row], columns: Columns) -> dict[str, str]:
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


def number(text: str) -> float | None:
  """What a cell says; None where it is no number."""
  try:
    return float(text)
  except ValueError:
    return None


def _positive(row: Row, name: str) -> float:
  text = row.cells[name]
  value = number(text)
  require(
    value is not None and math.isfinite(value) and value > 0,
    f"{row.place}, column {name!r}: {text!r} is no positive number, and a law "
    "is fitted to logs; mend it, or leave the row out with --status or --where",
  )
  return value
