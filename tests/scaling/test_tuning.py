"""Tests of laws of the best settings, and of resampling sizes."""

import json

import numpy as np
import pytest

from bigscale.cli.main import main
from bigscale.scaling import analysis
from bigscale.scaling.analysis import Settings
from bigscale.scaling.table import Columns, select
from bigscale.spec import SpecError

SIZES = np.geomspace(1e3, 64e3, 7)
RATES = (1e-4, 2e-4, 4e-4, 8e-4)


def write(path, optimum=3e-4, seeds=2, size_noise=0.0, rates=RATES):
  """Writes y = 50 x^-0.4, higher by 0.5 (log of rate over its optimum)^2."""
  rng = np.random.default_rng(0)
  lines = ["run,x,g_lr,status,y"]
  for x in SIZES:
    of_size = rng.normal(0, size_noise) if size_noise else 0.0
    for rate in rates:
      for seed in range(seeds):
        noise = rng.normal(0, 0.02) + of_size
        y = 50 * x**-0.4 * np.exp(0.5 * np.log(rate / optimum) ** 2 + noise)
        lines.append(f"{x:.0f}_{rate}_{seed},{x:.0f},{rate},done,{y:.6g}")
  path.write_text("\n".join(lines))
  return str(path)


def fit(path, resample_by="run", **columns):
  made = select(path, Columns("x", "y", group="run", **columns))
  settings = Settings(0.0, 400, resample_by=resample_by)
  return analysis.study(made, settings)


def test_the_best_settings_are_the_lower_envelope(tmp_path):
  made = fit(write(tmp_path / "t.csv"), best_over=("g_lr",))
  # 2e-4 and 4e-4 are nearest to the optimum; 4e-4 is nearer in logs.
  assert len(made.selection.points.y) == 2 * len(SIZES)
  values = made.fitted.values
  assert values["alpha"] == pytest.approx(0.4, abs=0.02)
  found = analysis.record(made)["tuning"]
  assert (found["places"], found["settings"]) == (7, 28)
  assert found["rows_of_other_settings"] == 42
  assert found["optimum"] == {
    "g_lr": {"smallest": 0, "largest": 0, "single": 0, "inside": 7}
  }
  assert made.selection.tuned.warnings() == []


def test_every_resample_selects_anew(tmp_path):
  """One run per rate, and rates that are alike: only luck makes one best."""
  path = write(tmp_path / "t.csv", seeds=1, rates=(2.9e-4, 3e-4, 3.1e-4))
  tuned, every = fit(path, best_over=("g_lr",)), fit(path)
  assert (len(tuned.selection.points.y), tuned.resampled.clusters) == (7, 21)

  def middle(made):
    """Returns the mean of log y in the middle of the resampled laws."""
    return made.resampled.theta[:, 0].mean() + made.fitted.design.center.log_y

  best = tuned.fitted.theta[0] + tuned.fitted.design.center.log_y
  # A resample lacks some runs, so its best are worse than those of all runs.
  assert best + 0.002 < middle(tuned) < middle(every) - 0.004
  assert (
    "21 of 21 settings have one run" in tuned.selection.tuned.warnings()[-1]
  )


def test_an_optimum_at_the_edge_is_a_warning(tmp_path, capsys):
  path = write(tmp_path / "t.csv", optimum=2e-3)
  words = ["bigscale", "scaling", "fit", path, "--x=x", "--y=y", "--group=run"]
  words += ["--best_over=g_lr", "--resamples=40"]
  assert main([*words, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["tuning"]["optimum"]["g_lr"]["largest"] == 7
  said = "the best g_lr is the largest that was tried at 7 of 7 places"
  assert any(text.startswith(said) for text in found["warnings"])
  assert main(words) == 0
  said = capsys.readouterr().out
  assert "best of 28 settings at 7 places; 42 rows of other settings" in said


def test_a_setting_with_a_collapse_is_not_the_best(tmp_path):
  path = tmp_path / "t.csv"
  write(path)
  lines = path.read_text().splitlines()
  at = next(n for n, line in enumerate(lines) if "1000_0.0004_0" in line)
  lines[at] = lines[at].replace("done", "collapsed")
  path.write_text("\n".join(lines))
  made = fit(str(path), best_over=("g_lr",), status="status")
  x = made.selection.points.variables["x"]
  chosen = made.selection.points.rows[x == 1000]
  assert [lines[row].split(",")[2] for row in chosen] == ["0.0002"] * 2


@pytest.mark.parametrize(
  ("columns", "words"),
  [
    ({"best_over": ("rate",)}, "--best_over=rate is not a column"),
    ({"best_over": ("x",)}, "--best_over=x is already the column of another"),
    ({"best_over": ("status",)}, "'done' is not a number, but --best_over"),
  ],
)
def test_columns_that_cannot_be_tuned_are_refused(tmp_path, columns, words):
  with pytest.raises(SpecError, match=words):
    fit(write(tmp_path / "t.csv"), **columns)


def test_resampling_sizes_accounts_for_errors_of_sizes(tmp_path):
  path = write(tmp_path / "t.csv", size_noise=0.1, seeds=4, rates=(3e-4,))
  runs, sizes = (fit(path, by) for by in ("run", "size"))
  assert (runs.resampled.clusters, sizes.resampled.clusters) == (28, 7)
  spread = [one.resampled.theta[:, 1].std() for one in (runs, sizes)]
  # The standard error of alpha for errors of 10% at 7 sizes is 0.027.
  assert spread[0] < 0.015
  assert 0.015 < spread[1] < 0.05


def test_resampling_sizes_needs_sizes(tmp_path):
  path = tmp_path / "t.csv"
  write(path)
  lines = path.read_text().splitlines()
  one_run = (line.replace("64000_", "1000_") for line in lines)
  path.write_text("\n".join(one_run))
  with pytest.raises(SpecError, match="x varies within a run"):
    fit(str(path), "size")
  few = [line for line in lines if ",1000," in line or ",2000," in line]
  path.write_text("\n".join([lines[0], *few]))
  with pytest.raises(
    SpecError, match="at least 4 values of x, but there are 2"
  ):
    fit(str(path), "size")
