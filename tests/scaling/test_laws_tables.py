"""Tests of real-world tables, and of laws that they do not determine."""

import csv
import json
import pathlib
import re

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


DOCS = pathlib.Path(__file__).parents[2] / "docs"
# Axes of the sweeps of the committed tables.
AXES = {"width", "batch", "data.subset", "parts"}


def test_every_column_of_a_sweep_is_documented():
  page = (DOCS / "reference/tables.md").read_text()
  rows = (line.split("|")[1] for line in page.splitlines() if line[:3] == "| `")
  known = {name for cell in rows for name in re.findall("`(.*?)`", cell)}
  known |= {"fd_classifier", "best_fd_classifier", "floor_fd_classifier"}
  headers = [
    path.read_text().splitlines()[0].split(",")
    for path in (DOCS / "first_law").glob("*.csv")
  ]
  assert len(headers) > 6
  assert {name for names in headers for name in names} - AXES <= known


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_other_delimiters_are_recognized(fit, sign):
  expected = fit(few())[1]["parameters"]
  assert fit(few(), sign=sign)[1]["parameters"] == expected


@pytest.mark.parametrize("sign", [";", ","])
def test_decimal_commas_are_read_if_asked(fit, sign):
  rows = [[run, x, y.replace(".", ",")] for run, x, y in few()]
  code, _, said = fit(rows, sign=sign)
  assert code == 2
  assert "if commas are decimal signs, pass --decimal_comma" in said
  code, found, _ = fit(rows, "--decimal_comma", sign=sign)
  assert (code, found["parameters"]) == (0, fit(few())[1]["parameters"])


@pytest.mark.parametrize("wrong", ["3.5", "1.234,5", "1.234.567"])
def test_points_among_decimal_commas_are_refused(fit, wrong):
  rows = [[run, x, y.replace(".", ",")] for run, x, y in few()]
  rows[2][2] = wrong
  code, _, said = fit(rows, "--decimal_comma", sign=";")
  assert code == 2
  assert f"row 3 (line 4), column 'y': {wrong!r} has a point" in said


@pytest.mark.parametrize("gap", ["", "nan", "NaN", "None"])
def test_missing_scores_are_excluded_if_asked(fit, gap):
  rows = [*few(), ["r13", "5e6", gap]]
  code, _, said = fit(rows)
  assert code == 2
  assert "or all such rows with --drop_missing" in said
  code, found, _ = fit(rows, "--drop_missing")
  assert (code, found["rows"]) == (0, 12)
  assert [(e["row"], e["reason"]) for e in found["excluded"]] == [
    (13, "y is missing")
  ]
  assert any("1 finished rows have no y" in text for text in found["warnings"])


def test_blank_rows_are_ignored(fit):
  rows = few()
  code, found, _ = fit([*rows[:3], [" ", " ", ""], *rows[3:]])
  assert (code, found["rows"]) == (0, 12)
