"""`bigscale monitor replay`."""

import json
import math
import pathlib
import random

import pytest

from bigscale.cli import main as program
from bigscale.monitor.declared import declared_steps
from bigscale.spec import from_config, to_json
from tests.e2e import tiny


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
    "replay",
    trace,
    "--json",
    "--set=warn_rows=1e90",
    "--set=rollback_rows=1e90",
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
  settings = {"warn_rows": 1e90, "rollback_rows": 1e90}
  spec = {"spec": {"monitor": {"verdict": settings}}}
  (tmp_path / "spec.json").write_text(json.dumps(spec))
  _, out, _ = monitor("replay", str(tmp_path), "--json")
  assert json.loads(out)["alarms"] == []


def _spec_of(kimg=0.0):
  """A run of 8 images a step, whose learning rate changes until `kimg`."""
  config = tiny.smallest()
  config.global_batch_size = 8
  config.optim.ema_start_kimg = 0.0
  rate = {"first": 2e-3, "last": 1e-3, "kimg": kimg}
  del config.optim.g_lr
  config.optim.g_lr = rate if kimg else 1e-3
  return to_json(from_config(config))


_CHANGED = {"event": "setting_changed", "step": 600, "setting": "optim.d_lr"}


@pytest.mark.parametrize(
  ("kimg", "events", "declared"),
  [
    (4.8, [], True),  # step 600
    (7.2, [], False),  # step 900
    # The batch size changed, so that 7.2 kimg are step 600.
    (
      7.2,
      [{"event": "start", "step": 300, "batches": [[0, 8], [300, 16]]}],
      True,
    ),
    (0.0, [_CHANGED | {"consequence": "the moments are kept"}], True),
    (0.0, [_CHANGED], False),  # It does not affect the training.
  ],
)
def test_declared_changes_of_a_run_are_no_evidence(
  monitor, trace, tmp_path, kimg, events, declared
):
  lines = pathlib.Path(trace).read_text().splitlines()[1:]
  rows = [map(float, line.split(",")) for line in lines]
  (tmp_path / "metrics.jsonl").write_text(
    "\n".join(json.dumps({"step": int(s), "d/loss": a}) for s, a, _ in rows)
  )
  _, out, _ = monitor("replay", str(tmp_path), "--json")
  assert json.loads(out)["alarms"]
  (tmp_path / "spec.json").write_text(json.dumps({"spec": _spec_of(kimg)}))
  (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
  _, out, _ = monitor("replay", str(tmp_path), "--json")
  assert (json.loads(out)["alarms"] == []) == declared


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "monitor '' is unknown"),
    (("look",), "monitor 'look' is unknown"),
    (("replay",), "replay needs a path"),
    (("replay", "none.csv"), "none.csv is not a file"),
    (("replay", "x.csv", "--set=limits=3"), "monitor.verdict: rollback_rows"),
    (("replay", "x.csv", "--set=quiet=many"), "'many' is not of type int"),
    (("replay", "x.csv", "--set=warn_rows=1"), "monitor.verdict.warn_rows=1"),
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
  code, out, err = monitor("replay", trace, f"--set=warn_rows={value}")
  assert (code, out) == (2, "")
  assert f"--set=warn_rows={value}" in err
  assert "not a finite number" in err


@pytest.fixture
def changed_run(trace, tmp_path):
  """Returns a function that writes a run's folder with the trace's jump."""

  def write(*events, first=1.0, last=1.0):
    folder = tmp_path / "run"
    folder.mkdir()
    header, *lines = pathlib.Path(trace).read_text().split("\n")
    names = header.split(",")
    rows = [
      dict(zip(names, map(json.loads, line.split(",")), strict=True))
      for line in lines
    ]
    config = tiny.get_config()
    with config.ignore_type():
      config.optim.g_lr = {"first": first, "last": last, "kimg": 4.8}
    spec = from_config(config)
    (folder / "spec.json").write_text(json.dumps({"spec": to_json(spec)}))
    for name, found in (("metrics", rows), ("events", events)):
      text = "".join(json.dumps(row) + "\n" for row in found)
      (folder / f"{name}.jsonl").write_text(text)
    return str(folder)

  return write


@pytest.mark.parametrize(
  "event",
  [
    {"event": "setting_changed", "step": 600, "consequence": "other numbers"},
    {"event": "data_accepted", "step": 600},
    {"event": "rollback", "step": 700, "to_step": 600},
  ],
)
def test_changes_that_a_run_declares_are_not_judged(
  monitor, changed_run, event
):
  _, out, _ = monitor("replay", changed_run(event, "not an event"), "--json")
  found = json.loads(out)
  assert found["alarms"] == []
  assert any("declares are not judged: steps 600" in n for n in found["notes"])


def test_the_end_of_a_runs_schedule_is_not_judged(monitor, changed_run):
  _, out, _ = monitor("replay", changed_run(first=1e-3, last=1e-4), "--json")
  assert json.loads(out)["alarms"] == []


def test_other_events_of_a_run_declare_nothing(monitor, changed_run):
  other = {"event": "setting_changed", "step": 600, "setting": "log.every"}
  folder = changed_run(other, {"event": "evaluation", "step": 600})
  _, out, _ = monitor("replay", folder, "--json")
  assert json.loads(out)["alarms"]


def test_a_change_of_a_later_attempt_is_not_declared_for_an_earlier_one(
  changed_run,
):
  later = {"event": "data_accepted", "step": 600, "attempt": 1}
  folder = changed_run(later)
  assert declared_steps(folder, attempt=0) == []
  assert declared_steps(folder) == [600]
