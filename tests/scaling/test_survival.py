"""Tests of the analysis of times of collapse."""

import json

import numpy as np
import pytest
from scipy import stats

from bigscale.cli.main import main
from bigscale.scaling.lifetimes import Times, fit_weibull, kaplan_meier
from bigscale.scaling.survival import survival
from bigscale.spec import SpecError

HEADER = "run,status,images,blocks,collapsed_step,steps"
COLUMNS = {"status": "status", "time": "collapsed_step", "until": "steps"}


def write(path, rows, header=HEADER):
  lines = [header]
  lines += [f"r{n},{','.join(map(str, row))}" for n, row in enumerate(rows)]
  path.write_text("\n".join(lines))
  return str(path)


@pytest.fixture
def runs(tmp_path):
  rows = [
    ("done", 1000, "a", "", 9),
    ("collapsed at 3", 200, "a", 3, 9),
    ("diverged", "200.0", "a", 5, 9),
    ("done", 200, "a+b", "", 9),
    ("", 1000, "a", "", 9),
    ("failed", 1000, "a", "", ""),
    ("running", 1000, "a", "", 9),
    ("collapsed", 1000, "b", 9, 9),
    ("done", 1000, "a", "", 9),
    ("mean", 1000, "a", "", 9),
  ]
  path = write(tmp_path / "runs.csv", rows)
  text = (tmp_path / "runs.csv").read_text()
  # A summary row, and a repetition of the first row.
  text = text.replace("r9,mean", "mean,done").replace("r8,", "r0,")
  (tmp_path / "runs.csv").write_text(text)
  return path


def test_runs_are_counted_by_status(runs):
  found = survival(runs, "images", **COLUMNS, where=("blocks~a",))
  assert [(one.value, one.collapsed, one.of) for one in found.levels] == [
    ("200", 2, 3),
    ("1000", 0, 2),
  ]
  # Without censoring this is Wilson's interval (1927), by hand:
  # (2/3 + z2/6 -+ ...) / (1 + z2/3), z2 = 3.8415.
  assert found.levels[0].interval95 == pytest.approx((0.2077, 0.9385), abs=1e-4)
  assert found.levels[0].median == 5
  assert found.levels[1].median is None
  assert [(one["row"], one["reason"][:9]) for one in found.excluded] == [
    (6, "failed"),
    (7, "running"),
    (9, "the same "),
    (10, "a summary"),
  ]
  assert found.filtered == 1


def test_shorter_runs_are_censored():
  """Against SciPy, with runs that end before the collapses of others."""
  rng = np.random.default_rng(0)
  collapse, end = rng.weibull(1.3, 40) * 8, rng.uniform(2, 12, 40)
  times = Times(np.minimum(collapse, end), collapse <= end)
  of = stats.CensoredData.right_censored(times.of, ~times.collapsed)
  found = kaplan_meier(times, 1e9)
  expected = stats.ecdf(of).sf
  assert found.alive[:-1] == pytest.approx(expected.evaluate(found.time[:-1]))
  low, high = expected.confidence_interval(method="log-log")
  middle = slice(3, 15)
  at = found.time[middle]
  assert found.low[middle] == pytest.approx(low.evaluate(at), abs=0.05)
  assert found.high[middle] == pytest.approx(high.evaluate(at), abs=0.05)


def test_the_weibull_fit_is_the_maximum_of_the_likelihood():
  rng = np.random.default_rng(1)
  x = np.repeat([1.0, 10.0, 100.0], 60)
  collapse = rng.weibull(1.5, len(x)) * 10 * x**0.3
  times = Times(np.minimum(collapse, 40.0), collapse <= 40)
  found = fit_weibull(times, x)
  assert found.power95[0] < 0.3 < found.power95[1]
  assert found.shape95[0] < 1.5 < found.shape95[1]
  assert found.power95[1] - found.power95[0] < 0.3
  # Times divided by x^power follow one Weibull law, which SciPy fits.
  scaled = times.of / x**found.power
  of = stats.CensoredData.right_censored(scaled, ~times.collapsed)
  shape, _, _ = stats.weibull_min.fit(of, floc=0)
  assert found.shape == pytest.approx(shape, rel=1e-3)


def test_an_interval_may_have_one_end():
  """If no large run collapses, times may grow arbitrarily fast with size."""
  collapsed = np.repeat([True, False], 6)
  times = Times(np.array([*range(1, 7), *[8] * 6], float), collapsed)
  low, high = fit_weibull(times, np.repeat([1.0, 10.0], 6)).power95
  assert low > 0
  assert high is None


def test_a_trend_is_distinguished_from_no_trend(tmp_path):
  sizes = [100] * 8 + [1000] * 8
  steep = [
    ("collapsed", size, "a", 4, 9) if n < 7 else ("done", size, "a", "", 9)
    for n, size in enumerate(sizes)
  ]
  even = [
    ("collapsed", size, "a", 4, 9) if n % 2 else ("done", size, "a", "", 9)
    for n, size in enumerate(sizes)
  ]
  p = [
    survival(
      write(tmp_path / "r.csv", rows), "images", **COLUMNS, permutations=40_000
    ).p
    for rows in (steep, even)
  ]
  # Of the 16 choose 7 assignments, 8 are within the first eight runs and 8
  # within the last eight.
  assert p[0] == pytest.approx(2 * 8 / 11440, rel=0.5)
  assert p[1] == 1.0


@pytest.mark.parametrize(
  ("rows", "why"),
  [
    ([("done", 1, "a", "", 9), ("done", 2, "a", "", 9)], "0 runs collapsed"),
    ([("collapsed", 1, "a", 3, 9), ("done", 1, "a", "", 9)], "not several"),
    ([("collapsed", "few", "a", 3, 9)], "not several positive numbers"),
  ],
)
def test_no_trend_is_claimed_without_a_possible_one(tmp_path, rows, why):
  path = write(tmp_path / "r.csv", rows)
  found = survival(path, "images", **COLUMNS)
  assert found.p is None
  assert found.weibull is None
  assert why in found.why


@pytest.mark.parametrize(
  ("column", "where", "words"),
  [
    ("nothing", (), "--x=nothing is not a column"),
    ("images", ("images=7",), "no run that ended: of 10 rows, 10 do not meet"),
    ("images", ("status=failed",), "9 do not meet --where and 1 failed"),
  ],
)
def test_bad_columns_and_conditions(runs, column, where, words):
  with pytest.raises(SpecError, match=words):
    survival(runs, column, **COLUMNS, where=where)


@pytest.mark.parametrize(
  ("row", "words"),
  [
    (("collapsed", 1, "a", 10, 9), "collapsed at collapsed_step=10, after its"),
    (("collapsed", 1, "a", "", 9), "column 'collapsed_step': '' is not a pos"),
    (("done", 1, "a", "", "nan"), "column 'steps': 'nan' is not a positive"),
  ],
)
def test_impossible_times_are_refused(tmp_path, row, words):
  with pytest.raises(SpecError, match=words):
    survival(write(tmp_path / "r.csv", [row]), "images", **COLUMNS)


def test_a_table_of_evaluations_is_refused(runs, tmp_path):
  text = (tmp_path / "runs.csv").read_text().replace("r1,", "r0,")
  (tmp_path / "runs.csv").write_text(text)
  with pytest.raises(
    SpecError, match=r"run 'r0' has row 1 \(line 2\) and row 2"
  ):
    survival(runs, "images", **COLUMNS)


def test_runs_without_names_are_all_counted(tmp_path):
  path = tmp_path / "r.csv"
  rows = "done,1,,9\ndone,1,,9\ncollapsed,1,4,9\n"
  path.write_text("status,images,collapsed_step,steps\n" + rows)
  assert survival(str(path), "images", **COLUMNS).levels[0].of == 3


def test_the_command(runs, capsys):
  command = ["bigscale", "scaling", "survival", runs, "--x=images"]
  assert main([*command, "--where=blocks~a"]) == 0
  said = capsys.readouterr().out
  assert "200     2 of 3     67% (21% to 94%)" in said
  assert "excluded: row 6 (line 7), failed" in said
  assert main([*command, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert [one["value"] for one in found["levels"]] == ["200", "1000"]
  assert main([*command, "--resamples=3"]) == 2
  assert "--resamples=3 must be between 100" in capsys.readouterr().err
  assert main(command[:3]) == 2
  assert "scaling survival needs a table" in capsys.readouterr().err
