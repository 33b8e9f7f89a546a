"""Tests of tables in CSV and Parquet."""

import csv
import math

import pytest

from bigscale.place import open_place
from bigscale.train.trackers import table


def rows_of(folder):
  rows = []
  for path in sorted(folder.iterdir()):
    with path.open(newline="") as file:
      header, *cells = csv.reader(file)
    assert tuple(header) == table.COLUMNS
    rows += [tuple(row) for row in cells]
  return rows


def test_a_part_is_written_at_an_interval_and_at_the_end(tmp_path):
  now = [0.0]
  made = table.csv_table(open_place(tmp_path).write, clock=lambda: now[0])
  made.scalars(1, {"d/loss": 0.1, "attempt": 0})
  assert not (tmp_path / "csv").exists()
  now[0] = 301.0
  # A new column, a comma in a name, and a value that is not finite.
  made.scalars(2, {"eval/a,b": math.inf, "attempt": 1})
  assert rows_of(tmp_path / "csv") == [
    ("1", "0", "d/loss", "0.1"),
    ("2", "1", "eval/a,b", "inf"),
  ]
  made.scalars(3, {"d/loss": 0.25})
  made.close()
  made.close()
  assert rows_of(tmp_path / "csv")[2:] == [("3", "0", "d/loss", "0.25")]
  assert len(list((tmp_path / "csv").iterdir())) == 2


def test_a_part_is_written_after_many_rows(tmp_path, monkeypatch):
  monkeypatch.setattr(table, "_ROWS", 3)
  made = table.csv_table(open_place(tmp_path).write)
  made.scalars(1, {"a": 1.0, "b": 2.0})
  made.scalars(2, {"a": 1.0})
  assert len(rows_of(tmp_path / "csv")) == 3


def test_a_later_start_sorts_after_an_earlier_one(tmp_path):
  for value in (1.0, 2.0):
    made = table.csv_table(open_place(tmp_path).write)
    made.scalars(5, {"a": value})
    made.close()
  assert [row[3] for row in rows_of(tmp_path / "csv")] == ["1.0", "2.0"]


def test_parquet(tmp_path):
  parquet = pytest.importorskip("pyarrow.parquet")
  made = table.parquet_table(open_place(tmp_path).write)
  made.scalars(1, {"d/loss": 0.5, "attempt": 2, "kimg": 1})
  made.close()
  found = parquet.read_table(tmp_path / "parquet").to_pylist()
  assert found == [
    {"step": 1, "attempt": 2, "name": "d/loss", "value": 0.5},
    {"step": 1, "attempt": 2, "name": "kimg", "value": 1.0},
  ]
