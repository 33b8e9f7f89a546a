"""Tests that a fit reports its counts and no unsupported numbers."""

import csv
import json
import math
import tempfile

import numpy as np
import pytest

from bigscale.cli import main as program
from bigscale.scaling import (
  analysis,
  compare,
  figures,
  intervals,
  laws,
  table,
  text,
)
from bigscale.scaling.fit import Loss, fit
from bigscale.scaling.rows import number, repeats, summaries
from bigscale.scaling.rows import read as read_rows

HEADER = ["run", "params", "images", "fid"]


def checkpoints():
  """12 runs with 8 checkpoints each, 96 rows, that fall faster and faster."""
  rng = np.random.default_rng(3)
  rows = []
  for params in (1e5, 3e5, 1e6, 4e6):
    for seed in range(3):
      effect = 0.02 * rng.standard_normal()
      for images in np.geomspace(1e4, 1e6, 8):
        exact = 4e3 * params**-0.4 + 3e4 * images**-0.7
        exact *= math.exp(-0.05 * math.log(images / 1e4) ** 2)
        fid = exact * math.exp(effect + 0.02 * rng.standard_normal())
        rows.append([f"{params:g}-{seed}", params, round(images), f"{fid:.6g}"])
  return rows


@pytest.fixture
def write(tmp_path):
  def call(rows, header=HEADER):
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
      csv.writer(file).writerows([header, *rows])
    return str(path)

  return call


@pytest.fixture
def fitted(write, capsys):
  """Fits a table with the command; returns its JSON and its text."""

  def call(rows, *flags, header=HEADER):
    path = write(rows, header)
    words = ["bigscale", "scaling", "fit", path, "--y=fid", "--resamples=80"]
    assert program.main([*words, *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert program.main([*words, *flags]) == 0
    return found, capsys.readouterr().out

  return call


TWO = ("--x=params", "--x2=images", "--group=run")


@pytest.fixture(scope="module")
def law_of_96_rows(tmp_path_factory):
  """Record, text and plot of data without a floor, fitted with a floor."""
  path = tmp_path_factory.mktemp("law") / "runs.csv"
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([HEADER, *checkpoints()])
  columns = table.Columns(x="params", x2="images", y="fid", group="run")
  settings = analysis.Settings(resamples=80)
  made = analysis.study(table.select(str(path), columns), settings)
  found = analysis.record(made)
  return found, text.as_text(found), figures.draw(made)


def test_rows_and_runs_are_counted_separately(law_of_96_rows):
  found, said, _ = law_of_96_rows
  assert (found["rows"], found["points"], found["runs"]) == (96, 96, 12)
  assert "96 rows of 12 runs" in said
  assert "80 resamples of 12 clusters" in said


def test_without_a_group_no_runs_are_claimed(fitted):
  found, text = fitted(checkpoints()[::4], "--x=params")
  assert (found["rows"], found["runs"]) == (24, None)
  assert "24 rows, each counted as a run (no --group)" in text
  assert "column 'run' names 12 runs in 24 rows; pass --group=run" in text
  held = found["heldout"]["forms"][0]["heldout"]["4x"]
  assert held["predicted_runs"] is held["fitted_runs"] is None


@pytest.mark.parametrize("times", compare.HORIZONS)
def test_whole_runs_are_held_out(write, times, monkeypatch):
  columns = table.Columns(x="params", x2="images", y="fid", group="run")
  selection = table.select(write(checkpoints()), columns)
  points, used = selection.points, []
  monkeypatch.setattr(
    compare,
    "fit",
    lambda law, chosen, loss: used.append(chosen) or fit(law, chosen, loss),
  )
  found = compare.compare(
    points, [laws.Law(("x2",), 0.0)], Loss(), (0,), grouped=True
  )
  held = found["forms"][0]["heldout"][f"{times}x"]
  smaller = used[1 + compare.HORIZONS.index(times)]
  run_of = dict(zip(points.rows, points.group, strict=True))
  fitted = {run_of[row] for row in smaller.rows}
  limit = points.variables["C"].max() / times
  beyond = points.variables["C"] > limit
  larger = set(points.group[beyond])
  assert fitted
  assert larger
  assert not fitted & larger
  assert held["fitted_runs"] == len(fitted)
  assert held["predicted_runs"] == len(larger)
  assert held["fitted"] == len(smaller.rows) == 8 * len(fitted)
  assert held["predicted"] == beyond.sum()
  assert held["fitted"] + held["predicted"] + held["set_aside"] == 96


def test_few_held_out_runs_of_many_rows_choose_no_form(fitted):
  rows = [row for row in checkpoints() if row[1] < 4e6 or row[0].endswith("-0")]
  found, _ = fitted(rows, "--x=images", "--flops=params", "--group=run")
  held = found["heldout"]["forms"][0]["heldout"]["4x"]
  assert held["predicted"] >= compare.LEAST_PREDICTED
  assert held["predicted_runs"] < compare.LEAST_PREDICTED
  assert found["heldout"]["best"]["4x"] is None


def test_a_floor_of_zero_is_reported_as_a_bound(law_of_96_rows):
  """E must not be reported as 0 with a standard error of 0."""
  found, said, _ = law_of_96_rows
  floor = found["parameters"]["E"]
  assert floor["value"] == 0
  assert floor["is_bound"]
  assert floor["standard_error"] is None
  low, high = floor["interval95"] or (None, 1)
  assert low is None
  assert high > 0
  assert "0 to 0" not in said
  assert "E                  0    at bound" in said
  assert any("E lies at its bound" in one for one in found["warnings"])


def wall(rows=12):
  """Rows that fall more steeply than the largest exponent tried."""
  x = np.geomspace(1e3, 2e3, rows)
  y = 3 + 50 * (x / 1e3) ** -12
  return [[f"r{i}", a, b] for i, (a, b) in enumerate(zip(x, y, strict=True))]


def test_an_exponent_at_the_bound_is_reported_as_a_bound(fitted):
  header = ["run", "params", "fid"]
  flags = ("--x=params", "--group=run", "--floor=3")
  found, said = fitted(wall(), *flags, header=header)
  alpha, coefficient = (found["parameters"][name] for name in ("alpha", "A"))
  assert alpha["value"] == laws.LARGEST_EXPONENT
  for entry in (alpha, coefficient):
    assert entry["is_bound"]
    assert entry["standard_error"] is None
    if entry["interval95"] is None:
      assert "resamples lie at the bound" in entry["reason"]
    else:
      assert entry["interval95"][1] is None
  assert "alpha              8    at bound" in said
  assert "8, the largest value tried" in said
  assert any("alpha lies at the bound" in one for one in found["warnings"])
  (form,) = (
    form
    for form in found["heldout"]["forms"]
    if form["form"] == "y = 3 + A x^-alpha"
  )
  assert form["at_bound"] == ["alpha", "A"]


def entry(values, value=1.0, of=None, at=0.0, hard=False, unsupported=None):
  of = np.zeros(len(values)) if of is None else np.array(of, float)
  sides = intervals.Sides(of, "8", hard)
  return intervals.estimate(value, np.array(values), sides, at, unsupported)


HUNDRED = np.linspace(0.5, 1.5, 100)


def test_intervals_within_bounds_are_percentiles():
  found = entry(HUNDRED)
  assert set(found) == {"value", "standard_error", "interval95"}
  np.testing.assert_allclose(
    found["interval95"], np.percentile(HUNDRED, [2.5, 97.5]), rtol=1e-12
  )
  assert found["standard_error"] == pytest.approx(HUNDRED.std(ddof=1))


@pytest.mark.parametrize("share", [4, 50])
@pytest.mark.parametrize("side", [-1, 1])
def test_an_end_at_a_bound_is_none(side, share):
  of = np.where(np.arange(100) < share, side, 0)[::-side]
  found = entry(HUNDRED, of=of)
  low, high = found["interval95"]
  known = low if side > 0 else high
  assert (high if side > 0 else low) is None
  level = 5 if side > 0 else 95
  assert known == pytest.approx(np.percentile(HUNDRED, level), abs=0.02)
  assert found["standard_error"] is None
  assert found["at_bound"] == pytest.approx(share / 100)
  assert not found["is_bound"]


def test_a_few_resamples_at_a_bound_remove_only_the_standard_error():
  found = entry(HUNDRED, of=[*[0] * 99, 1])
  assert None not in found["interval95"]
  assert found["standard_error"] is None
  assert found["at_bound"] == 0.01


def test_no_interval_if_all_resamples_lie_at_the_bound():
  found = entry(np.zeros(100), 0.0, of=-np.ones(100), at=-1.0, hard=True)
  assert found["interval95"] is None
  assert found["reason"] == "all resamples lie at the bound (8)"


def test_a_floor_above_zero_may_reach_it():
  values = np.where(np.arange(100) < 10, 0.0, HUNDRED)
  found = entry(values, of=np.where(values == 0, -1.0, 0.0), hard=True)
  assert found["interval95"][0] == 0
  assert found["interval95"][1] > 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_none(value):
  found = entry(np.full(100, value), value)
  assert found["value"] is None
  assert found["interval95"] is None
  assert found["reason"]


def test_undetermined_resamples_give_no_interval():
  found = entry(HUNDRED, of=np.where(np.arange(100) < 50, np.nan, 0.0))
  assert found["interval95"] is None
  assert found["reason"] == "of the resamples, 50% do not determine it"
  assert entry([], 1.0)["interval95"] is None


def test_parameters_of_a_vanished_term_are_undetermined():
  law = laws.Law(("x",))
  x = np.geomspace(1, 100, 9)
  design = laws.design_of(law, {"x": x}, np.ones(9), np.zeros(9, bool))
  theta = np.array([[-60.0, 0.3, 1.0], [0.0, 0.3, 1.0]])
  found = intervals.sides_of(law, design, theta)
  np.testing.assert_array_equal(found["alpha"].of, [np.nan, 0])
  np.testing.assert_array_equal(found["A"].of, [np.nan, 0])


def test_too_few_runs_have_no_interval_and_no_band(fitted, write):
  rows = [row for row in checkpoints() if row[0].endswith("-1")]
  found, text = fitted(rows, "--x=images", "--group=run", "--floor=none")
  for name in ("A", "alpha"):
    assert found["parameters"][name]["interval95"] is None
    assert found["parameters"][name]["standard_error"] is None
    assert "4 runs are too few" in found["parameters"][name]["reason"]
  assert "none: 4 runs are too few for an interval" in text
  columns = table.Columns(x="images", y="fid", group="run")
  settings = analysis.Settings(floor=0.0, resamples=40)
  made = analysis.study(table.select(write(rows), columns), settings)
  kinds = [type(one).__name__ for one in figures.draw(made).axes[0].collections]
  assert kinds == ["PathCollection", "PathCollection"]


def test_figure_title_counts_rows_and_runs(law_of_96_rows):
  title = law_of_96_rows[2].get_suptitle()
  assert title == "96 rows of 12 runs; at a bound: E"


def few(rows=12):
  return [
    [f"r{i}", 1e3 * 2**i, 64, f"{3 + 50 * (1e3 * 2**i) ** -0.4:.6g}"]
    for i in range(rows)
  ]


@pytest.fixture
def selected(write):
  def call(rows, group):
    columns = table.Columns(x="params", y="fid", group=group)
    return table.select(write(rows), columns)

  return call


@pytest.mark.parametrize("group", ["", "run"])
def test_duplicate_rows_count_once(selected, group):
  again = [*few()[3][:1], "8e3", "64.0", few()[3][3]]
  found = selected([*few(), again], group)
  assert len(found.points.y) == 12
  assert [(e["row"], e["reason"]) for e in found.excluded] == [
    (13, "the same as row 4")
  ]


def test_excluded_rows_are_printed(fitted):
  found, said = fitted([*few(), few()[3], ["mean", 1e5, 64, 5]], "--x=params")
  assert found["rows"] == 12
  assert "2 excluded" in said
  y = float(few()[3][3])
  assert f"row 13, y {y:.5g}: the same as row 4" in said
  assert "row 14, y 5: a summary, not a run: 'mean' in column 'run'" in said


def test_columns_of_times_do_not_distinguish_rows():
  header = ["x", "y", "seconds"]
  assert repeats(header, rows_of(header, [[1, 2, 3], [1, 2, 4]])) == {
    2: "the same as row 1"
  }
  assert repeats(header, rows_of(header, [[1, 2, 3], [1, 3, 3]])) == {}


def rows_of(header, cells):
  with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    csv.writer(file).writerows([header, *cells])
    file.flush()
    return read_rows(file.name)[1]


WORDS = ["mean", "Mean", "std", "average", "AVG", "total", "Total:", "median",
         "mean of 3", "std. dev.", "mean ± std", "sum", "count", "50%",
         "grand total", "standard error"]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("group", ["", "run"])
def test_summary_rows_are_excluded(selected, word, group):
  found = selected([*few(), [word, 1e5, 64, 5.0]], group)
  assert len(found.points.y) == 12
  (left,) = found.excluded
  assert left["row"] == 13
  assert left["reason"] == f"a summary, not a run: {word!r} in column 'run'"


def test_summaries_are_recognized_in_any_column_of_numbers():
  header = ["size", "seed", "y"]
  cells = [["a", 0, 1], ["a", 1, 2], ["a", "mean", 1.5]]
  assert set(summaries(header, rows_of(header, cells))) == {3}


@pytest.mark.parametrize("values", [("max", "mean"), ("max", "conv", "none")])
def test_settings_named_like_summaries_are_kept(values):
  header = ["run", "pooling", "y"]
  cells = [[f"r{i}", values[i % len(values)], i] for i in range(12)]
  assert summaries(header, rows_of(header, cells)) == {}


MALFORMED = ["1000000_000", "1_0", "infinity", "nan", "1e400", "0x10",
             "\uff11\uff12", "1 000", "1,5", "1e", "--1", "5.2.1"]  # fmt: skip


@pytest.mark.parametrize("cell", MALFORMED)
@pytest.mark.parametrize("column", [1, 3])
def test_a_malformed_number_is_refused_with_its_row(
  write, cell, column, capsys
):
  rows = few()
  rows[4][column] = cell
  words = ["bigscale", "scaling", "fit", write(rows), "--x=params", "--y=fid"]
  assert program.main(words) == 2
  said = capsys.readouterr().err
  assert f"row 5 (line 6), column {HEADER[column]!r}: {cell!r}" in said


@pytest.mark.parametrize("text", ["3", "-3.", ".5", "1e-3", "+2E+05"])
def test_numbers_are_read(text):
  assert number(text) == float(text)


def test_overflowing_products_are_refused(write, capsys):
  rows = [[run, f"{x:.0f}e200", "1e200", y] for run, x, _, y in few()]
  words = ["bigscale", "scaling", "fit", write(rows), "--y=fid"]
  assert program.main([*words, "--x=params", "--x2=images"]) == 2
  assert "row 1 (line 2): x, x2, C are" in capsys.readouterr().err


def test_a_malformed_floor_is_refused(write, capsys):
  words = ["bigscale", "scaling", "fit", write(few()), "--x=params", "--y=fid"]
  assert program.main([*words, "--floor=1_0"]) == 2
  assert "--floor=1_0 must be" in capsys.readouterr().err
