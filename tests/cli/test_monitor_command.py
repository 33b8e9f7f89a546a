"""`bigscale monitor replay`."""

import json
import math
import pathlib
import random

import pytest

from bigscale.cli import main as program


@pytest.fixture
def trace(tmp_path):
  """A trace whose loss of D and diversity jump at step 600."""
  rng = random.Random(0)
  lines = ["step,d/loss,g/diversity"]
  for step in range(0, 1000, 5):
    loss = 0.6 + 0.05 * rng.gauss(0, 1) + (3 if step >= 600 else 0)
    diversity = 0.8 * math.exp(0.05 * rng.gauss(0, 1))
    lines.append(f"{step},{loss:.4f},{diversity / (1 + 4 * (step >= 600)):.4f}")
  path = tmp_path / "trace.csv"
  path.write_text("\n".join(lines))
  return str(path)


@pytest.fixture
def monitor(capsys):
  """Runs the command and returns exit code, stdout and stderr."""

  def call(*arguments):
    code = program.main(["bigscale", "monitor", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return call


def test_replay_prints_json(monitor, trace):
  code, out, _ = monitor("replay", trace, "--json")
  found = json.loads(out)
  assert code == 0
  assert {"alarms", "healthy_step"} <= set(found)
  alarm = next(a for a in found["alarms"] if a["level"] == "rollback")
  assert {"step", "level", "signal", "value", "reference"} <= set(alarm)
  assert 600 <= alarm["step"] <= 660
  assert 590 <= found["healthy_step"] <= 600


def test_replay_prints_text(monitor, trace):
  code, out, _ = monitor("replay", trace)
  assert code == 0
  assert "rollback since 600" in out
  assert "g/diversity" in out
  assert "last healthy step: 595" in out


def test_flags_are_reset_between_calls(monitor, trace):
  code, _, _ = monitor("replay", trace, "--json", "--set=nonsense=1")
  assert code == 2
  code, out, _ = monitor("replay", trace)
  assert code == 0
  assert "last healthy step" in out


def test_thresholds_are_flags(monitor, trace):
  code, out, _ = monitor(
    "replay", trace, "--json", "--set=limit=1e9", "--set=patience=1000"
  )
  assert code == 0
  assert json.loads(out)["alarms"] == []
  _, out, _ = monitor("replay", trace, "--json", "--warmup=2000")
  assert json.loads(out)["healthy_step"] is None
  _, out, _ = monitor("replay", trace, "--json", "--kinks=600")
  assert json.loads(out)["alarms"] == []


def test_replay_of_a_run_uses_its_settings(monitor, trace, tmp_path):
  lines = pathlib.Path(trace).read_text().splitlines()[1:]
  rows = [line.split(",") for line in lines]
  (tmp_path / "metrics.jsonl").write_text(
    "\n".join(
      json.dumps({"step": int(s), "d/loss": float(a), "g/diversity": float(b)})
      for s, a, b in rows
    )
  )
  _, out, _ = monitor("replay", str(tmp_path), "--json")
  assert json.loads(out)["alarms"]
  settings = {"limit": 1e9, "patience": 1000}
  spec = {"spec": {"monitor": {"verdict": settings}}}
  (tmp_path / "spec.json").write_text(json.dumps(spec))
  _, out, _ = monitor("replay", str(tmp_path), "--json")
  assert json.loads(out)["alarms"] == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "monitor '' is unknown"),
    (("look",), "monitor 'look' is unknown"),
    (("replay",), "replay needs a path"),
    (("replay", "none.csv"), "none.csv is no file"),
    (("replay", "x.csv", "--set=limits=3"), "monitor.verdict: warmup, block"),
    (("replay", "x.csv", "--set=window=many"), "'many' is not of type int"),
    (("replay", "x.csv", "--set=window=1"), "monitor.verdict.min_values"),
    (("replay", "x.csv", "--warmup=-1"), "must not be negative"),
  ],
)
def test_bad_usage_is_exit_code_2(monitor, arguments, message):
  code, _, err = monitor(*arguments)
  assert code == 2
  assert message in err


def test_kinks_must_be_steps(monitor, trace):
  code, _, err = monitor("replay", trace, "--kinks=soon")
  assert code == 2
  assert "--kinks=soon must be steps" in err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_threshold_must_be_finite(monitor, trace, value):
  code, out, err = monitor("replay", trace, f"--set=limit={value}")
  assert (code, out) == (2, "")
  assert f"--set=limit={value}" in err
  assert "not a finite number" in err
