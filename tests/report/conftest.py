"""Fixtures with the folder of a run, as training writes it."""

import json

import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.sampling.grid import save_png
from bigscale.spec import (
  DataSpec,
  LossSpec,
  OptimSpec,
  RunSpec,
  Schedule,
  to_json,
)
from bigscale.train.writers import JsonLines

_REFERENCE = {
  "event": "reference",
  "step": 0,
  "time": 1.8e9,
  "classifier_accuracy": 0.914,
  "fd_classifier_floor": 2.0,
  "fd_classifier_class_means_noise": 60.0,
  "fd_classifier_blurred_reals": 45.0,
}


def _spec():
  constant = Schedule(first=2e-4, last=2e-4)
  return RunSpec(
    global_batch_size=50,
    total_kimg=10,
    model=BigganSpec(resolution=32, num_classes=10),
    data=DataSpec(source="emoji"),
    loss=LossSpec(
      adversarial="hinge", r1_gamma=Schedule(first=2.0, last=0.2, kimg=5.0)
    ),
    optim=OptimSpec(g_lr=constant, d_lr=constant, d_steps=2),
  )


def _row(step, attempt=0, **values):
  return {
    "step": step,
    "kimg": step / 10,
    "seconds": step * 2.0,
    "attempt": attempt,
    "d/loss": 1 / step,
    "g/loss": 1.0,
    "d/r1": 0.1,
    "g/sigma0/block0/conv": 1.0 + step,
    "g/sigma0/linear": 2.0,
    "d/sigma0/head": 3.0,
    "perf/images_per_second": 500.0,
    "d/heldout_gap": 0.5,
    **values,
  }


@pytest.fixture
def row():
  """Returns a function row(step, attempt, **values) for metrics.jsonl."""
  return _row


@pytest.fixture
def run_dir(tmp_path):
  """A run of 100 steps with two evaluations, a floor, 3 grids and events."""
  (tmp_path / "spec.json").write_text(
    json.dumps(
      {
        "spec": to_json(_spec()),
        "versions": {"jax": "0.10.2"},
        "command": ["bigscale", "train", "--workdir=my run"],
      }
    )
  )
  metrics = JsonLines(tmp_path / "metrics.jsonl")
  for step in range(10, 101, 10):
    metrics.write(_row(step))
    if step in (20, 100):
      metrics.write(
        {
          "step": step,
          "kimg": step / 10,
          "seconds": step * 2.0 + 1,
          "attempt": 0,
          "eval/fd_classifier": 800 / step,
          "eval/classes_present": 9,
          "eval/label_agreement": 0.75,
        }
      )
  events = JsonLines(tmp_path / "events.jsonl")
  events.write(
    {"event": "start", "family": "BigGAN", "parameters": {"g": 1234, "d": 5678}}
  )
  events.write(_REFERENCE)
  for step in (10, 50, 100):
    images = np.full((4, 8, 8, 3), step, np.uint8)
    save_png(tmp_path / "samples" / f"{step:06d}.png", images, 2)
  return tmp_path


@pytest.fixture
def rolled_back(run_dir):
  """Like `run_dir`, but rolled back from step 81 to step 50."""
  spec = json.loads((run_dir / "spec.json").read_text())
  spec["spec"]["monitor"]["action"] = "rollback"
  (run_dir / "spec.json").write_text(json.dumps(spec))
  metrics = run_dir / "metrics.jsonl"
  rows = metrics.read_text().splitlines(keepends=True)
  metrics.write_text("".join(r for r in rows if json.loads(r)["step"] <= 80))
  for step in (60, 70):
    JsonLines(metrics).write(_row(step, 1))
  events = JsonLines(run_dir / "events.jsonl")
  warned = {
    "signal": "g/sigma0/linear",
    "value": 9.5,
    "reference": 2.0,
    "rule": "above its usual range",
  }
  lost = {
    "signal": "g/loss",
    "value": np.inf,
    "reference": None,
    "rule": "not finite",
  }
  for step, level, reasons in (
    (70, "warn", [warned]),
    (80, "rollback", [lost, warned]),
  ):
    event = {"event": "verdict", "step": step, "attempt": 0, "level": level}
    events.write(event | {"onset": 60, "reasons": reasons})
  healthy = {"event": "healthy", "step": 81, "attempt": 0, "of_step": 50}
  events.write(healthy | {"onset": 60})
  events.write(
    {
      "event": "rollback",
      "step": 81,
      "attempt": 1,
      "to_step": 50,
      "onset": 60,
      "retry": 1,
      "skipped": [2500, 4050],
      "turned": {"g_lr": 0.5},
    }
  )
  return run_dir
