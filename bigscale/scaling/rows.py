"""Rows of a table: CSV with a header, numbers, conditions, statuses."""

import csv
import math
import operator
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
# How a condition is written, for help texts.
CONDITIONS = (
  "COLUMN=VALUE, or with != < <= > >=, or COLUMN~WORD of several; may be "
  "repeated, all must hold"
)
_WHERE = re.compile(r"(.+?)(<=|>=|!=|=|<|>|~)(.*)")
# float() also takes 1_000, infinity and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# What a spreadsheet or pandas puts below the runs.
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
# What a spreadsheet of another country, or a copy from one, has for commas.
_OTHER_SIGNS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# An id that was read as a float once.
_WAS_FLOAT = re.compile(r"([0-9]+)\.0+")
_INCIDENTAL = re.compile(
  r"|index|unnamed: 0|seconds|hours|(wall_?)?time|timestamp|date", re.IGNORECASE
)
# Columns that say which run a row is of, by their usual names.
_NAMES = ("run", "run_id", "run id", "id", "name", "seed", "trial")
_IDS = (*_NAMES, "", "model")


class TableRow(NamedTuple):
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
    value = number(self.cells[y])
    return {
      "row": self.number,
      "line": self.line,
      "y": value if value is None or math.isfinite(value) else None,
      "reason": reason,
    }


def read(path: str) -> tuple[list[str], list[TableRow]]:
  """Names of the columns, and the rows, of a table.

  Raises:
    SpecError: it cannot be read or has none.
  """
  try:
    with pathlib.Path(path).open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      header = [name.strip() for name in next(reader, [])]
      lines = [
        (reader.line_num, cells)
        for cells in reader
        if any(cell.strip() for cell in cells)
      ]
  except OSError as error:
    raise SpecError(
      f"{path} cannot be read ({error.strerror}); give the path of a CSV file"
    ) from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise SpecError(
      f"{path} is no CSV file in UTF-8 ({error}); export the runs table as one"
    ) from None
  other = next((sign for sign in _OTHER_SIGNS if sign in "".join(header)), "")
  require(
    len(header) != 1 or not other,
    f"{path} separates its columns by {_OTHER_SIGNS.get(other)}, and this "
    "reads commas; export it with commas between cells and points in numbers",
  )
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
    rows.append(
      TableRow(number, line, dict(zip(header, stripped, strict=True)))
    )
  return header, rows


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


def matching(
  header: list[str], rows: list[TableRow], condition: str
) -> list[TableRow]:
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

  def holds(row: TableRow) -> bool:
    cell = row.cells[name]
    numbers = number(cell), number(wanted)
    if None not in numbers and sign != "~":
      return _COMPARE[sign](*numbers)
    return not order and _COMPARE[sign](cell, wanted)

  return [row for row in rows if holds(row)]


def status_of(row: TableRow, column: str) -> str:
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


def number(text: str) -> float | None:
  """What a cell says; None where it is no number."""
  return float(text) if _NUMBER.fullmatch(text) else None


def identity(cell: str) -> str:
  """What an id says: 3.0, of a table that once held floats, is 3."""
  found = _WAS_FLOAT.fullmatch(cell)
  return found[1] if found else cell


def summaries(
  header: Sequence[str], rows: Sequence[TableRow], group: str = ""
) -> dict[int, str]:
  """Rows that are of no run but of several: means, totals and the like.

  They are told by a word in a column that names runs, or in one of numbers. A
  column where such words are many is a setting (`pooling`: max, mean).

  Args:
    header: names of the columns.
    rows: all of a table.
    group: the column of runs; "" where unknown.

  Returns:
    Why, by the number of the row.
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
        # `50%` is a name that pandas gives; in other columns it is a number.
        if row.cells[name].endswith("%") and not names:
          continue
        found.setdefault(
          row.number,
          f"a summary, no run: {row.cells[name]!r} in column {name!r}",
        )
  return found


def names_runs(header: Sequence[str]) -> bool:
  """Whether a table has a column that tells runs apart."""
  return any(name.lower() in _NAMES for name in header)


def repeats(header: Sequence[str], rows: Sequence[TableRow]) -> dict[int, str]:
  """Rows that say what one before them says, however numbers are written.

  Args:
    header: names of the columns. Those of when a run was made, or of where its
      row stood, make no row another.
    rows: of a table.

  Returns:
    Why, by the number of the row.
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
  """The number that a cell says, or its text."""
  value = number(cell)
  return cell if value is None else value
