"""Tests of real-world tables, and of laws that they do not determine."""

import csv
import json

import numpy as np
import pytest

from bigscale.cli.main import main

HEADER = ["run", "x", "y"]


def few():
  """12 runs of E + A x^-alpha with noise."""
  rng = np.random.default_rng(0)
  return [
    [f"r{i}", f"{x:.6g}", f"{2 + 300 * x**-0.35 * np.exp(noise):.6g}"]
    for i, (x, noise) in enumerate(
      zip(np.geomspace(1e5, 1e8, 12), 0.03 * rng.normal(size=12), strict=True)
    )
  ]


@pytest.fixture
def fit(tmp_path, capsys):
  """Fits a table; returns exit code, JSON and stderr."""

  def call(rows, *flags, sign=","):
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
      csv.writer(file, delimiter=sign).writerows([HEADER, *rows])
    words = ["bigscale", "scaling", "fit", str(path), "--x=x", "--y=y"]
    code = main([*words, "--resamples=80", "--json", *flags])
    printed, said = capsys.readouterr()
    return code, json.loads(printed or "null"), said

  return call


def with_y(values):
  return [
    [run, x, f"{y}"] for (run, x, _), y in zip(few(), values, strict=True)
  ]


@pytest.mark.parametrize("floor", ["free", "none"])
def test_a_constant_y_is_refused(fit, floor):
  code, _, said = fit(with_y([3.0] * 12), f"--floor={floor}")
  assert code == 2
  assert "y is 3 in all 12 finished points" in said


def test_no_interval_if_fits_of_resamples_do_not_converge(fit):
  code, found, _ = fit(with_y([3.0] * 6 + [3.5] * 6))
  assert code == 0
  assert found["method"]["bootstrap"]["unconverged"] >= 0.2
  for entry in found["parameters"].values():
    assert entry["interval95"] is None
    assert "did not converge" in entry["reason"]


def test_integer_and_float_ids_are_the_same_run(fit):
  rows = [
    [f"{i // 2}" if i % 2 else f"{i // 2}.0", x, y]
    for i, (_, x, y) in enumerate(few())
  ]
  code, found, _ = fit(rows, "--group=run")
  assert code == 0
  assert found["method"]["bootstrap"]["clusters"] == 6


@pytest.mark.parametrize("word", ["gmean", "se", "ci95", "mean_std", "overall"])
def test_more_summary_words_are_recognized(fit, word):
  code, found, _ = fit([*few(), [word, "1e5", "99"]])
  assert code == 0
  (left,) = found["excluded"]
  assert left["reason"] == f"a summary, not a run: {word!r} in column 'run'"


def test_a_percentage_is_not_a_summary(fit):
  rows = few()
  rows[3][2] = "5%"
  code, _, said = fit(rows)
  assert code == 2
  assert "row 4 (line 5), column 'y': '5%' is not a positive number" in said


@pytest.mark.parametrize(
  ("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")]
)
def test_other_delimiters_are_refused(fit, sign, name):
  rows = [[run, x, y.replace(".", ",")] for run, x, y in few()]
  code, _, said = fit(rows, sign=sign)
  assert code == 2
  assert f"separates its columns by {name}" in said


def test_blank_rows_are_ignored(fit):
  rows = few()
  code, found, _ = fit([*rows[:3], [" ", " ", ""], *rows[3:]])
  assert (code, found["rows"]) == (0, 12)
