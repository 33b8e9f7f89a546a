"""Reads the rows of CSV tables: numbers, conditions and statuses."""

import csv
import math
import operator
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.spec import SpecError, require

# "diverged" is a synonym of "collapsed".
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
  # A word in a list such as "size+batch", the format of a sweep's blocks.
  "~": lambda cell, word: word in cell.split("+"),
}
# Syntax of a condition, for help texts.
CONDITIONS = (
  "COLUMN=VALUE, or with != < <= > >=, or COLUMN~WORD for a word in a list "
  "such as a+b; may be repeated, and all conditions must hold"
)
_WHERE = re.compile(r"(.+?)(<=|>=|!=|=|<|>|~)(.*)")
# float() would also accept 1_000, infinity and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Labels of summary rows, as written by spreadsheets and pandas.
_SUMMARY = re.compile(
  r"(grand\s+|overall\s+)?"
  r"(mean|average|avg|median|std|stdev|stddev|std\.?\s?dev(iation)?|"
  r"standard\s(deviation|error)|std\.?\s?err(or)?|sd|se|sem|var|variance|"
  r"mean[_\s-](std|sd|of\b.*)|g(eo)?mean|geometric\smean|quantile|percentile|"
  r"ci\s?[0-9]{2}|p(05|25|50|75|90|95|99)|overall|all\sruns|total|"
  r"totals|sum|count|min|minimum|max|maximum|[0-9]{1,2}%)"
  r"[.:]?(\s*(\(|of\b|over\b|\+|±|/).*)?",
  re.IGNORECASE,
)
# Some spreadsheet locales use other delimiters than commas.
_DELIMITERS = (",", ";", "\t", "|")
_COMMA_NUMBER = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]+)?")
# Texts that programs write for missing numbers.
_MISSING = ("", "nan", "na", "n/a", "none", "null", "-")
# An integer id that was once stored as a float.
_WAS_FLOAT = re.compile(r"([0-9]+)\.0+")
# Columns that do not distinguish rows, such as times and row numbers.
_INCIDENTAL = re.compile(
  r"|index|unnamed: 0|seconds|hours|(wall_?)?time|timestamp|date", re.IGNORECASE
)
# Common names of columns that identify a run.
_NAMES = ("run", "run_id", "run id", "id", "name", "seed", "trial")
_IDS = (*_NAMES, "", "model")


class TableRow(NamedTuple):
  """A row of a table.

  Attributes:
    number: row number, from 1.
    line: line in the file, from 1.
    cells: text of each cell, by column.
  """

  number: int
  line: int
  cells: dict[str, str]

  @property
  def place(self) -> str:
    """Row and line numbers, for messages."""
    return f"row {self.number} (line {self.line})"

  def left_out(self, reason: str, y: str) -> dict[str, Any]:
    """Returns the record of an excluded row, with its y if it is a number."""
    # A failed run may have any text in this cell.
    value = number(self.cells[y])
    return {
      "row": self.number,
      "line": self.line,
      "y": value if value is None or math.isfinite(value) else None,
      "reason": reason,
    }


def read(
  path: str, *, decimal_comma: bool = False
) -> tuple[list[str], list[TableRow]]:
  """Returns the column names and the rows of a table.

  Cells are separated by the delimiter that gives the header most columns.

  Args:
    path: path of a CSV file.
    decimal_comma: whether numbers are written like 1,5.

  Raises:
    SpecError: the file cannot be read or has no rows, or `decimal_comma` is
      set and numbers have points.
  """
  try:
    with pathlib.Path(path).open(newline="", encoding="utf-8-sig") as file:
      delimiter = _delimiter(file.readline())
      file.seek(0)
      reader = csv.reader(file, delimiter=delimiter)
      header = [name.strip() for name in next(reader, [])]
      lines = [
        (reader.line_num, [cell.strip() for cell in cells])
        for cells in reader
        if any(cell.strip() for cell in cells)
      ]
  except OSError as error:
    raise SpecError(
      f"{path} cannot be read ({error.strerror}); give the path of a CSV file"
    ) from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise SpecError(
      f"{path} is not a CSV file in UTF-8 ({error}); export the table as CSV"
    ) from None
  require(
    bool(header) and bool(lines),
    f"{path} {'has no rows below its header' if header else 'is empty'}; "
    "a runs table has a header of column names and one row per run",
  )
  rows = []
  for number, (line, cells) in enumerate(lines, start=1):
    require(
      len(cells) == len(header),
      f"{path}, row {number} (line {line}) has {len(cells)} cells, but the "
      f"header has {len(header)}; quote cells that contain {delimiter!r}",
    )
    rows.append(TableRow(number, line, dict(zip(header, cells, strict=True))))
  return header, _with_points(header, rows) if decimal_comma else rows


def _delimiter(header: str) -> str:
  def columns(sign: str) -> int:
    return len(next(csv.reader([header], delimiter=sign), []))

  return max(_DELIMITERS, key=columns)


def _with_points(header: list[str], rows: list[TableRow]) -> list[TableRow]:
  """Replaces decimal commas by points, column by column.

  Raises:
    SpecError: numbers of a column have points for decimals or thousands.
  """
  for name in header:
    comma = any(_COMMA_NUMBER.fullmatch(row.cells[name]) for row in rows)
    for row in rows:
      cell = row.cells[name]
      grouped = _THOUSANDS.fullmatch(cell) is not None
      point = "." in cell and number(cell) is not None
      require(
        not (grouped or (comma and point)),
        f"{row.place}, column {name!r}: {cell!r} has a point, but "
        "--decimal_comma reads numbers like 1234,5; export the table without "
        "separators of thousands and with one decimal sign",
      )
  return [
    row._replace(
      cells={
        name: cell.replace(",", ".") if _COMMA_NUMBER.fullmatch(cell) else cell
        for name, cell in row.cells.items()
      }
    )
    for row in rows
  ]


def check_names(header: list[str], flags: Mapping[str, str]) -> None:
  """Checks that each flag names exactly one column.

  Args:
    header: column names.
    flags: column name by flag.

  Raises:
    SpecError: a name is missing from the table, or is not unique.
  """
  for flag, name in flags.items():
    require(
      name in header,
      f"--{flag}={name} is not a column of the table; choose from "
      f"{', '.join(header)}",
    )
    require(
      header.count(name) == 1,
      f"--{flag}={name} names {header.count(name)} columns; rename all but one",
    )


def matching(
  header: list[str], rows: list[TableRow], condition: str
) -> list[TableRow]:
  """Returns the rows that meet a condition; see `CONDITIONS`."""
  found = _WHERE.fullmatch(condition)
  require(
    found is not None,
    f"--where={condition} must be COLUMN=VALUE, or use another operator of "
    f"{' '.join(_COMPARE)}",
  )
  name, sign, wanted = (part.strip() for part in found.groups())
  require(
    name in header,
    f"--where={condition}: {name!r} is not a column of the table; choose from "
    f"{', '.join(header)}",
  )
  order = sign in ("<", ">", "<=", ">=")
  require(
    not order or number(wanted) is not None,
    f"--where={condition}: {wanted!r} is not a number; {sign} needs one",
  )

  def holds(row: TableRow) -> bool:
    cell = row.cells[name]
    numbers = number(cell), number(wanted)
    if None not in numbers and sign != "~":
      return _COMPARE[sign](*numbers)
    return not order and _COMPARE[sign](cell, wanted)

  return [row for row in rows if holds(row)]


def status_of(row: TableRow, column: str) -> str:
  """Returns the first word of a row's status, such as "collapsed at 4000".

  Args:
    row: row of a table.
    column: column of statuses; "" if all runs are done.

  Raises:
    SpecError: the word is not a status.
  """
  if not column:
    return "done"
  status = (row.cells[column].lower().split() or ["done"])[0]
  require(
    status in (*_COUNTED, *LEFT_OUT),
    f"{row.place}, column {column!r}: {status!r} is not a status; use "
    f"{', '.join((*_COUNTED, *LEFT_OUT))}",
  )
  return status


def number(text: str) -> float | None:
  """Returns the number in a cell, or None if it is not a number."""
  return float(text) if _NUMBER.fullmatch(text) else None


def positive(row: TableRow, name: str) -> float:
  """Returns the number in a cell.

  Raises:
    SpecError: it is not a positive number.
  """
  text = row.cells[name]
  value = number(text)
  remedy = "correct it, or exclude the row with --status or --where"
  if is_missing(text):
    remedy += ", or all such rows with --drop_missing"
  elif _COMMA_NUMBER.fullmatch(text):
    remedy = "if commas are decimal signs, pass --decimal_comma"
  require(
    value is not None and math.isfinite(value) and value > 0,
    f"{row.place}, column {name!r}: {text!r} is not a positive number, which a "
    f"law requires; {remedy}",
  )
  return value


def is_missing(text: str) -> bool:
  """Returns whether a cell says that its number is missing."""
  return text.lower() in _MISSING


def identity(cell: str) -> str:
  """Returns an id in canonical form: "3.0", once stored as a float, is "3"."""
  found = _WAS_FLOAT.fullmatch(cell)
  return found[1] if found else cell


def summaries(
  header: Sequence[str], rows: Sequence[TableRow], group: str = ""
) -> dict[int, str]:
  """Finds summary rows, such as means and totals over several runs.

  A summary row has a word such as "mean" in a column of run names or of
  numbers. A column with many such words is a setting (`pooling`: max, mean).

  Args:
    header: column names.
    rows: all rows of a table.
    group: column of run ids; "" if unknown.

  Returns:
    Reasons to exclude rows, by row number.
  """
  found: dict[int, str] = {}
  for name in header:
    cells = [row.cells[name] for row in rows]
    odd = [row for row in rows if _SUMMARY.fullmatch(row.cells[name])]
    others = [cell for cell in cells if not _SUMMARY.fullmatch(cell)]
    numbers = sum(number(cell) is not None for cell in others)
    if not odd or 2 * len(odd) >= len(rows):
      continue
    names = name == group or name.lower() in _IDS
    if names or len(set(others)) == len(others) or 2 * numbers > len(others):
      for row in odd:
        # Pandas names a row "50%". In other columns, "50%" is a number.
        if row.cells[name].endswith("%") and not names:
          continue
        found.setdefault(
          row.number,
          f"a summary, not a run: {row.cells[name]!r} in column {name!r}",
        )
  return found


def names_runs(header: Sequence[str]) -> bool:
  """Returns whether a table has a column that identifies runs."""
  return any(name.lower() in _NAMES for name in header)


def repeats(header: Sequence[str], rows: Sequence[TableRow]) -> dict[int, str]:
  """Finds rows that repeat an earlier row, in any notation of numbers.

  Args:
    header: column names. Columns of times and row numbers are not compared.
    rows: rows of a table.

  Returns:
    Reasons to exclude rows, by row number.
  """
  names = [name for name in header if not _INCIDENTAL.fullmatch(name)]
  first: dict[tuple[Any, ...], int] = {}
  found = {}
  for row in rows:
    key = tuple(meaning(row.cells[name]) for name in names)
    if key in first:
      found[row.number] = f"the same as row {first[key]}"
    else:
      first[key] = row.number
  return found


def meaning(cell: str) -> float | str:
  """Returns the number in a cell, or its text if it is not a number."""
  value = number(cell)
  return cell if value is None else value
