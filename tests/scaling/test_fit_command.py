"""`bigscale scaling fit`: what it reads, prints, and refuses."""

import csv
import json

import numpy as np
import pytest

from bigscale.cli import main as program
from bigscale.scaling import table

HEADER = ["run", "model", "params", "images", "flops", "fid", "status"]


def good_rows():
  """Twelve runs of 2 + 5e3 flops^-0.25, with a little ripple."""
  rows = []
  for index in range(12):
    flops = 10.0 ** (13 + index / 2)
    fid = (2 + 5e3 * flops**-0.25) * (1 + 0.01 * (-1) ** (index // 2))
    params = 1e6 * 2 ** (index % 4)
    rows.append(
      [f"r{index}", "r3gan", params, flops / params, flops, fid, "done"]
    )
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
def fit(capsys):
  """Runs the command as a user would; returns exit code, stdout, stderr."""

  def call(path, *flags):
    defaults = ("--x=flops", "--y=fid", "--resamples=60")
    code = program.main(["bigscale", "scaling", "fit", path, *defaults, *flags])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err

  return call


def test_json_has_the_agreed_form(fit, write, tmp_path):
  out = tmp_path / "deep" / "law.json"
  code, printed, _ = fit(
    write(good_rows()), "--json", "--group=run", f"--out={out}"
  )
  assert code == 0
  found = json.loads(printed)
  assert json.loads(out.read_text()) == found
  assert set(found["parameters"]) == {"E", "A", "alpha"}
  for entry in found["parameters"].values():
    assert set(entry) == {"value", "standard_error", "interval95"}
    low, high = entry["interval95"]
    assert low <= entry["value"] <= high
  assert {"method", "points", "excluded", "censored", "heldout"} <= set(found)
  assert found["parameters"]["alpha"]["value"] == pytest.approx(0.25, abs=0.03)
  assert found["split"] is None


def test_report_draws_what_fit_finds(write, tmp_path, capsys):
  out = tmp_path / "law.svg"
  flags = ["--x=params", "--x2=images", "--y=fid", "--resamples=60"]
  command = ["bigscale", "scaling", "report", write(good_rows()), *flags]
  assert program.main([*command, f"--out={out}"]) == 0
  assert capsys.readouterr().out == f"{out}\n"
  assert out.read_text().lstrip().startswith("<?xml")
  assert program.main(command) == 2
  assert "--out is missing" in capsys.readouterr().err


def test_text_says_what_matters(fit, write):
  rows = good_rows()
  rows[3][-1] = "failed"
  code, printed, _ = fit(
    write(rows),
    "--x=params",
    "--x2=images",
    "--status=status",
    "--floor=2",
    "--group=run",
  )
  assert code == 0
  assert "y = 2 + A x^-alpha + B x2^-beta" in printed
  assert "pinned" in printed
  assert "split: compute = 1 x x2" in printed
  assert "excluded: row 4" in printed
  assert "larger runs predicted" in printed


def test_rows_are_accounted_for(fit, write):
  """Every row is fitted, a bound, excluded with a reason, or filtered."""
  rows = good_rows()
  rows[1][-1], rows[1][-2] = "failed", ""
  rows[2][-1] = "Collapsed at 4000"
  rows[4][-1], rows[4][-2] = "collapsed", ""
  rows[5][-1] = "diverged"
  rows[7][1] = "biggan"
  rows[8][-1] = ""
  code, printed, _ = fit(
    write(rows),
    "--json",
    "--status=status",
    "--where=model=r3gan",
    "--where=flops>=1e13",
    "--where=run!=r9",
    "--drop_worst=1",
  )
  assert code == 0
  found = json.loads(printed)
  assert found["points"] == 7
  assert [entry["row"] for entry in found["censored"]] == [3, 6]
  assert {entry["row"]: entry["reason"] for entry in found["excluded"]} == {
    1: "one of the 1 highest",
    2: "failed",
    5: "collapsed before any value",
  }
  assert found["filtered"] == 2


def test_runs_are_found_by_a_word_of_several(write):
  rows = good_rows()
  for index, row in enumerate(rows):
    row[1] = ("size", "size+batch", "batch", "batches", "3", "4+3")[index % 6]

  def found(condition):
    columns = table.Columns(x="params", y="fid", where=(condition,))
    return table.select(write(rows), columns).points.rows.tolist()

  assert found("model~batch") == [2, 3, 8, 9]
  assert found("model~3") == [5, 6, 11, 12]


def test_second_variable_is_derived(write):
  rows = good_rows()
  for row in rows:
    row[4] = 6 * row[2] * row[3]
  columns = table.Columns(x="params", y="fid", x2="flops/6x", flops="flops")
  found = table.select(write(rows), columns)
  assert found.names["x2"] == "flops / (6 params)"
  assert found.compute_factor == 6
  images = [row[3] for row in rows]
  np.testing.assert_allclose(found.points.variables["x2"], images, rtol=1e-12)


def test_same_seed_same_law(fit, write):
  path = write(good_rows())
  one, two, other = (
    json.loads(fit(path, "--json", f"--seed={seed}")[1]) for seed in (1, 1, 2)
  )
  for found in (one, two, other):
    found["method"]["bootstrap"].pop("seconds")
  assert one == two
  assert one["parameters"] != other["parameters"]


def test_protocols_are_not_mixed(fit, write):
  rows = [[*row, "5000"] for row in good_rows()]
  header, flag = [*HEADER, "fid_samples"], "--protocol=fid_samples"
  code, printed, _ = fit(write(rows, header), "--json", flag)
  assert code == 0
  assert json.loads(printed)["protocol"] == {"fid_samples": "5000"}
  rows[2][-1] = "50000"
  code, _, said = fit(write(rows, header), flag)
  assert code == 2
  assert "row 1 (line 2)" in said
  assert "row 3 (line 4)" in said


def changed(row, column, value):
  rows = good_rows()
  rows[row][HEADER.index(column)] = value
  return rows


def statuses(status, count=12):
  rows = good_rows()
  for row in rows[:count]:
    row[-1] = status
  return rows


@pytest.mark.parametrize(
  ("rows", "flags", "said"),
  [
    (good_rows()[:4], (), "3 parameters and needs 5 finished points"),
    (good_rows()[:6], ("--x=params", "--x2=images"), "needs 7 finished"),
    (statuses("collapsed"), ("--status=status",), "and 12 that collapsed"),
    (statuses("failed"), ("--status=status",), "has no run to fit"),
    (statuses("finisht"), ("--status=status",), "'finisht' is no status"),
    (changed(2, "fid", "-3"), (), "row 3 (line 4), column 'fid': '-3'"),
    (changed(2, "fid", "0"), (), "row 3 (line 4), column 'fid': '0'"),
    (changed(2, "fid", "nan"), (), "row 3 (line 4), column 'fid': 'nan'"),
    (changed(2, "fid", ""), (), "row 3 (line 4), column 'fid': ''"),
    (changed(2, "fid", "x"), ("--drop_worst=1",), "column 'fid': 'x'"),
    (changed(5, "flops", "1,5"), (), "row 6 (line 7), column 'flops': '1,5'"),
    (good_rows(), ("--x=flop",), "--x=flop is no column of the table; it has"),
    (good_rows(), ("--x2=flop",), "run, model, params, images, flops, fid"),
    (good_rows(), ("--y=flops",), "is a variable too"),
    (good_rows(), ("--x2=flops",), "--x2=flops is --x again"),
    (good_rows(), ("--group=seed",), "--group=seed is no column"),
    (good_rows(), ("--status=state",), "--status=state is no column"),
    (good_rows(), ("--protocol=fid,seed",), "--protocol=seed is no column"),
    (good_rows(), ("--group=model",), "has 1 groups"),
    (changed(3, "run", ""), ("--group=run",), "column 'run' is empty"),
    (good_rows(), ("--x=params", "--where=params=1e6"), "but there are 3"),
    (good_rows(), ("--where=model",), "must be COLUMN=VALUE"),
    (good_rows(), ("--where=kind=3",), "'kind' is no column"),
    (good_rows(), ("--where=flops<big",), "'big' is no number"),
    (good_rows(), ("--where=model=none",), "12 do not meet --where"),
    (good_rows(), ("--x2=flops/6x",), "give --flops=COLUMN"),
    (good_rows(), ("--x2=flops/0x", "--flops=flops"), "K above 0"),
    (good_rows(), ("--x2=flops/6", "--flops=flops"), "flops/Kx"),
    (good_rows(), ("--floor=low",), "--floor=low must be free, none"),
    (good_rows(), ("--floor=-1",), "at least 0"),
    (good_rows(), ("--floor=inf",), "at least 0"),
    (good_rows(), ("--floor=900",), "not below the median of y"),
    (good_rows(), ("--resamples=5",), "from 40"),
    (good_rows(), ("--seed=-1",), "must not be negative"),
    (good_rows(), ("--delta=0",), "--delta=0.0 must be from"),
    (good_rows(), ("--delta=nan",), "--delta=nan must be from"),
    (good_rows(), ("--drop_worst=-1",), "is negative"),
    (good_rows(), ("--drop_worst=12",), "has no run to fit"),
    (good_rows(), ("--drop_worst=x",), "drop_worst"),
    (good_rows(), ("--y=",), "--y is missing"),
    (good_rows(), ("--out=/dev/null/law.json",), "cannot be written"),
    ([], (), "no rows below its header"),
  ],
)
def test_bad_input_is_refused(fit, write, rows, flags, said):
  code, printed, error = fit(write(rows), *flags)
  assert code == 2
  assert printed == ""
  assert said in error


def test_constant_variable_is_refused(fit, write):
  rows = good_rows()
  for row in rows:
    row[2] = 1e6
  code, _, error = fit(write(rows), "--x=params")
  assert code == 2
  assert "x is 1e+06 in all 12 finished points" in error


def test_too_few_levels_are_refused(fit, write):
  rows = good_rows()
  for index, row in enumerate(rows):
    row[2] = 10.0 ** (6 + index % 2)
  code, _, error = fit(write(rows), "--x=params")
  assert code == 2
  assert "have 2 different values of x" in error
  # A slope alone is another matter.
  assert fit(write(rows), "--x=params", "--floor=none")[0] == 0


def test_few_levels_and_seeds_are_fitted(fit, write):
  """Where larger runs cannot be predicted, the reason is said."""
  rows = good_rows()
  for index, row in enumerate(rows):
    row[4] = 10.0 ** (13 + index // 3)
  code, printed, _ = fit(write(rows), "--json", "--group=run")
  assert code == 0
  forms = json.loads(printed)["heldout"]["forms"]
  reasons = [form["heldout"]["10x"].get("reason", "") for form in forms]
  assert any("different values of x" in reason for reason in reasons)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"", "nothing in it"),
    (b"flops,fid\n1e13\n", "row 1 (line 2) has 1 cells, the header 2"),
    (b"flops,fid,fid\n1e13,2,3\n", "is the name of 2 columns"),
    (b"\xff\xfe\x00\x01", "no CSV file in UTF-8"),
    (b"flops,fid\n1e13,2\x00\n", ""),
    (None, "cannot be read"),
  ],
)
def test_damaged_table_is_refused(fit, tmp_path, content, said):
  path = tmp_path / "table.csv"
  if content is not None:
    path.write_bytes(content)
  code, _, error = fit(str(path))
  assert code == 2
  assert said in error


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["fits"], "scaling 'fits' is unknown"),
    ([], "scaling '' is unknown"),
    (["fit"], "scaling fit needs a table"),
    (["fit", "."], "cannot be read"),
  ],
)
def test_bad_usage_is_refused(capsys, arguments, said):
  command = ["bigscale", "scaling", *arguments, "--x=a", "--y=b"]
  assert program.main(command) == 2
  assert said in capsys.readouterr().err
