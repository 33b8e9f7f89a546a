"""Writes scalars as tables in CSV or Parquet.

The rows have the columns `step`, `attempt`, `name` and `value`, so new scalars
do not change the table. It is a folder of parts. Each part is written whole, so
the folder can be on any file system, and a kill loses only the last part.

A restart repeats steps: of rows with the same step, attempt and name, the last
one counts. In pandas:

    table = pandas.read_parquet(folder)
    table = table.drop_duplicates(["step", "attempt", "name"], keep="last")
    table.pivot(index=["attempt", "step"], columns="name", values="value")
"""

import csv
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bigscale import temporary

COLUMNS = ("step", "attempt", "name", "value")
# A part is written after this many rows or seconds.
_ROWS = 100_000
_SECONDS = 300.0


class Row(NamedTuple):
  """A scalar of a step; see `COLUMNS`."""

  step: int
  attempt: int
  name: str
  value: float


class Table:
  """A table in parts."""

  def __init__(
    self,
    folder: pathlib.Path,
    suffix: str,
    write: Callable[[pathlib.Path, list[Row]], None],
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Opens the table without writing.

    Args:
      folder: folder of the parts, created with the first one.
      suffix: file type of the parts, without a dot.
      write: writes a part to a path.
      clock: monotonic clock in seconds.
    """
    self._folder, self._suffix, self._write = folder, suffix, write
    self._clock = clock
    self._rows: list[Row] = []
    self._written = clock()
    # Names sort in the order of writing, also over several starts.
    self._start = f"{time.time():017.6f}"
    self._parts = 0

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one row for each name."""
    attempt = int(values.get("attempt", 0))
    self._rows += [
      Row(step, attempt, name, float(value))
      for name, value in values.items()
      if name != "attempt"
    ]
    late = self._clock() - self._written > _SECONDS
    if late or len(self._rows) >= _ROWS:
      self.flush()

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Does nothing: the images are in `samples/`."""

  def flush(self) -> None:
    """Writes the rows so far as a part."""
    self._written = self._clock()
    if not self._rows:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    name = f"{self._start}-{self._parts:06d}.{self._suffix}"
    with temporary.replacing(self._folder / name) as partial:
      self._write(partial, self._rows)
    self._rows, self._parts = [], self._parts + 1

  def close(self) -> None:
    """Writes the last part."""
    self.flush()


def csv_table(workdir: pathlib.Path) -> Table:
  """Returns a table of CSV files in `csv/`."""
  return Table(workdir / "csv", "csv", _write_csv)


def parquet_table(workdir: pathlib.Path) -> Table:
  """Returns a table of Parquet files in `parquet/`."""
  return Table(workdir / "parquet", "parquet", _write_parquet)


def _write_csv(path: pathlib.Path, rows: list[Row]) -> None:
  with path.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows(rows)


def _write_parquet(path: pathlib.Path, rows: list[Row]) -> None:
  import pyarrow
  import pyarrow.parquet

  columns = zip(*rows, strict=True)
  table = pyarrow.table(dict(zip(COLUMNS, map(list, columns), strict=True)))
  pyarrow.parquet.write_table(table, path)
