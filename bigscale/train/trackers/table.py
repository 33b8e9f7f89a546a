"""Writes scalars as tables in CSV or Parquet.

The rows have the columns `step`, `attempt`, `name` and `value`, so new scalars
do not change the table. It is a folder of parts. Each part is written whole, so
the folder can be on a disk or a bucket, and a kill loses only the last part.

A restart repeats steps: of rows with the same step, attempt and name, the last
one counts. In pandas:

    table = pandas.read_parquet(folder)
    table = table.drop_duplicates(["step", "attempt", "name"], keep="last")
    table.pivot(index=["attempt", "step"], columns="name", values="value")
"""

import csv
import io
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bigscale.train.writers import Write

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
    kind: str,
    encode: Callable[[list[Row]], bytes],
    write: Write,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Opens the table without writing.

    Args:
      kind: file type, which names the folder of the parts and their endings.
      encode: returns the content of a part.
      write: writes a file into the run's folder.
      clock: monotonic clock in seconds.
    """
    self._kind, self._encode, self._write = kind, encode, write
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
    name = f"{self._start}-{self._parts:06d}.{self._kind}"
    self._write(f"{self._kind}/{name}", self._encode(self._rows))
    self._rows, self._parts = [], self._parts + 1

  def close(self) -> None:
    """Writes the last part."""
    self.flush()


def csv_table(
  write: Write, clock: Callable[[], float] = time.monotonic
) -> Table:
  """Returns a table of CSV files in `csv/`."""
  return Table("csv", _to_csv, write, clock)


def parquet_table(write: Write) -> Table:
  """Returns a table of Parquet files in `parquet/`."""
  return Table("parquet", _to_parquet, write)


def _to_csv(rows: list[Row]) -> bytes:
  text = io.StringIO(newline="")
  writer = csv.writer(text)
  writer.writerow(COLUMNS)
  writer.writerows(rows)
  return text.getvalue().encode()


def _to_parquet(rows: list[Row]) -> bytes:
  import pyarrow
  import pyarrow.parquet

  columns = zip(*rows, strict=True)
  table = pyarrow.table(dict(zip(COLUMNS, map(list, columns), strict=True)))
  content = io.BytesIO()
  pyarrow.parquet.write_table(table, content)
  return content.getvalue()
