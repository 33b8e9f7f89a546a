"""Tests of the gradient noise scale."""

import json
import math

import numpy as np
import pytest

from bigscale.cli import main as program
from bigscale.scaling.noise_scale import noise_scales
from bigscale.spec import SpecError


def rows(scale, count=400, *, spread=3.0, seed=0):
  """Rows with more noise than signal; G's scale is ten times D's."""
  rng = np.random.default_rng(seed)

  def row(step):
    return {
      "step": step,
      "kimg": step / 10,
      "d/gradient_signal": 1.0 + spread * rng.normal(),
      "d/gradient_noise": scale * (1 + 0.1 * rng.normal()),
      "g/gradient_signal": 0.1 + 0.1 * spread * rng.normal(),
      "g/gradient_noise": scale * (1 + 0.1 * rng.normal()),
    }

  return [row(step) for step in range(1, count + 1)]


def test_noise_scales_of_both_players():
  d, g = noise_scales(rows(250.0))
  assert (d.player, d.rows, d.first_kimg, d.last_kimg) == ("d", 400, 0.1, 40.0)
  assert d.low < 250 < d.high
  assert g.low < 2500 < g.high
  # The ratio of means, not the mean of the ratios of rows.
  assert d.noise_scale == pytest.approx(d.noise / d.signal)


def test_intervals_have_their_nominal_coverage():
  held = [
    one.low < 250 < one.high
    for seed in range(100)
    for one in noise_scales(rows(250.0, 200, seed=seed), resamples=200)[:1]
  ]
  assert 0.88 <= np.mean(held) <= 1.0


def test_windows_separate_early_from_late():
  early, late = rows(100.0, 400, spread=1.0), rows(1000.0, 800, spread=1.0)
  found = noise_scales(early + late[400:], windows=2)
  d_early, d_late, *_ = found
  assert (d_early.rows, d_late.rows) == (400, 400)
  assert d_early.high < d_late.low


def test_scale_is_unbounded_if_noise_hides_the_gradient():
  d, _ = noise_scales(rows(1e4, 20, spread=100.0))
  assert math.isinf(d.high)


def test_rows_without_terms_are_skipped():
  table = rows(250.0)
  evaluations = [{"kimg": 1.0, "eval/fd_classifier": 3.0}]
  lost = [{**table[0], "d/gradient_noise": math.nan}]
  d, _ = noise_scales(table + evaluations + lost)
  assert d == noise_scales(table)[0]


@pytest.mark.parametrize(
  ("table", "windows", "message"),
  [
    ([{"kimg": 1.0, "d/loss": 1.0}], 1, r"log\.noise_scale=True"),
    ([], 1, "no row has d/gradient_signal"),
    (rows(250.0, 8), 4, "use fewer windows"),
    (rows(250.0), 0, "must be at least 1"),
  ],
)
def test_unmeasurable_tables_are_refused(table, windows, message):
  with pytest.raises(SpecError, match=message):
    noise_scales(table, windows=windows)


@pytest.fixture
def noise(tmp_path, capsys):
  """Runs the command on rows; returns exit code, stdout and stderr."""

  def call(table, *flags):
    lines = "".join(f"{json.dumps(row)}\n" for row in table)
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "spec.json").write_text("{}")
    command = ["bigscale", "scaling", "noise", str(tmp_path), *flags]
    code = program.main(command)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err

  return call


@pytest.mark.parametrize(
  "flag", ["resamples=1", "resamples=1000000000", "seed=-1", "windows=0"]
)
def test_flags_that_give_no_interval_are_refused(noise, flag):
  code, _, said = noise(rows(250.0), f"--{flag}")
  assert code == 2
  assert f"--{flag} must" in said


def test_command_prints_one_row_per_player_and_window(noise):
  code, printed, _ = noise(rows(250.0), "--windows=2")
  assert code == 0
  assert [line[:1] for line in printed.splitlines()[1:]] == list("ddgg")


def test_json_has_no_infinity(noise):
  _, printed, _ = noise(rows(1e4, 20, spread=100.0), "--json")
  d, g = json.loads(printed)
  assert (d["player"], g["player"]) == ("d", "g")
  assert d["high"] is None


def test_folders_without_a_run_are_refused(noise, tmp_path):
  command = ["bigscale", "scaling", "noise", str(tmp_path / "absent")]
  assert program.main(command) == 2
  code, _, printed = noise([{"step": 1, "kimg": 0.1}])
  assert code == 2
  assert "log.noise_scale=True" in printed
