"""Shares of runs that collapsed."""

import json

import pytest

from bigscale.cli.main import main
from bigscale.scaling import shares
from bigscale.spec import SpecError


def write(path, rows):
  lines = ["run,status,images,blocks"]
  lines += [f"r{n},{','.join(map(str, row))}" for n, row in enumerate(rows)]
  path.write_text("\n".join(lines))
  return str(path)


@pytest.fixture
def runs(tmp_path):
  rows = [
    ("done", 1000, "a"),
    ("collapsed at 3", 200, "a"),
    ("diverged", 200, "a"),
    ("done", 200, "a+b"),
    ("", 1000, "a"),
    ("failed", 1000, "a"),
    ("running", 1000, "a"),
    ("collapsed", 1000, "b"),
  ]
  return write(tmp_path / "runs.csv", rows)


def test_runs_are_counted_by_their_end(runs):
  found = shares.shares(runs, "images", status="status", where=("blocks~a",))
  assert [(one.value, one.collapsed, one.of) for one in found.levels] == [
    ("200", 2, 3),
    ("1000", 0, 2),
  ]
  low, high = found.levels[0].interval95
  # Wilson 1927, by hand: (2/3 + z2/6 -+ ...) / (1 + z2/3), z2 = 3.8415.
  assert (low, high) == (
    pytest.approx(0.2077, abs=1e-4),
    pytest.approx(0.9385, abs=1e-4),
  )
  assert [(one["row"], one["reason"]) for one in found.excluded] == [
    (6, "failed"),
    (7, "running"),
  ]
  assert found.filtered == 1


def test_a_trend_is_told_from_none(tmp_path):
  sizes = [100] * 8 + [1000] * 8
  steep = [
    ("collapsed" if n < 7 else "done", size, "a")
    for n, size in enumerate(sizes)
  ]
  even = [
    ("collapsed" if n % 2 else "done", size, "a")
    for n, size in enumerate(sizes)
  ]
  p = [
    shares.shares(
      write(tmp_path / "r.csv", rows),
      "images",
      status="status",
      permutations=40_000,
    ).p
    for rows in (steep, even)
  ]
  # Of 16 choose 7, one is all in the first eight or in the last eight: 8 each.
  assert p[0] == pytest.approx(2 * 8 / 11440, rel=0.5)
  assert p[1] == 1.0


@pytest.mark.parametrize(
  "rows",
  [
    [("done", 1, "a"), ("done", 2, "a")],
    [("collapsed", 1, "a"), ("done", 1, "a")],
    [("collapsed", "few", "a"), ("done", "many", "a")],
  ],
)
def test_no_trend_where_there_can_be_none(tmp_path, rows):
  path = write(tmp_path / "r.csv", rows)
  assert shares.shares(path, "images", status="status").p is None


@pytest.mark.parametrize(
  ("column", "where", "words"),
  [
    ("nothing", (), "--x=nothing is no column"),
    ("images", ("images=7",), "no run that ended: of 8 rows, 8 do not meet"),
    ("images", ("status=failed",), "7 do not meet --where and 1 failed"),
  ],
)
def test_bad_input(runs, column, where, words):
  with pytest.raises(SpecError, match=words):
    shares.shares(runs, column, status="status", where=where)


def test_the_command(runs, capsys):
  command = ["bigscale", "scaling", "shares", runs, "--x=images"]
  assert main([*command, "--where=blocks~a"]) == 0
  said = capsys.readouterr().out
  assert "200     2 of 3     67% (21% to 94%)" in said
  assert "left out: row 6 (line 7), failed" in said
  assert main([*command, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert [one["value"] for one in found["levels"]] == ["200", "1000"]
  assert main([*command, "--resamples=3"]) == 2
  assert "--resamples=3 must be 100 or more" in capsys.readouterr().err
  assert main(command[:3]) == 2
  assert "scaling shares needs a table" in capsys.readouterr().err
