"""Tests of Weights & Biases: a fake module, and offline if it is installed."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from bigscale.place import open_place
from bigscale.train.trackers.wandb import WeightsAndBiases


class Run:
  def __init__(self, settings):
    self.settings, self.calls = settings, []

  def define_metric(self, name, step_metric):
    self.calls.append(("define", name, step_metric))

  def log(self, values):
    self.calls.append(values)

  def finish(self):
    self.calls.append("finish")


@pytest.fixture
def runs(monkeypatch):
  """Replaces wandb; returns the runs that were opened."""
  made = []

  def init(**settings):
    made.append(Run(settings))
    return made[-1]

  module = types.ModuleType("wandb")
  module.init = init
  module.Image = lambda image: ("image", image.shape)
  module.Settings = lambda: types.SimpleNamespace(
    project=os.environ.get("WANDB_PROJECT")
  )
  monkeypatch.setitem(sys.modules, "wandb", module)
  monkeypatch.delenv("WANDB_PROJECT", raising=False)
  return made


def test_steps_that_decrease_are_kept(tmp_path, runs):
  """W&B would drop them if they were its own steps."""
  tracker = WeightsAndBiases(open_place(tmp_path), {"seed": 3})
  tracker.scalars(9, {"d/loss": 1.0, "attempt": 0})
  tracker.scalars(5, {"d/loss": 2.0, "attempt": 1})
  tracker.image(5, "samples", np.zeros((2, 3, 1), np.uint8))
  tracker.flush()
  tracker.close()
  assert runs[0].calls == [
    ("define", "*", "step"),
    {"step": 9, "d/loss": 1.0, "attempt": 0},
    {"step": 5, "d/loss": 2.0, "attempt": 1},
    {"step": 5, "samples": ("image", (2, 3, 1))},
    "finish",
  ]
  settings = runs[0].settings
  assert settings["project"] == "bigscale"
  assert settings["config"] == {"seed": 3}


def test_a_resumed_run_is_the_same_run(tmp_path, runs, monkeypatch):
  monkeypatch.setenv("WANDB_PROJECT", "theirs")
  for folder in ("a", "a", "b"):
    WeightsAndBiases(open_place(tmp_path / folder), {})
  ids = [run.settings["id"] for run in runs]
  assert ids[0] == ids[1] != ids[2]
  assert runs[0].settings["resume"] == "allow"
  assert runs[0].settings["name"] == "a"
  assert runs[0].settings["project"] == "theirs"


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)
def test_offline(tmp_path):
  code = (
    "import sys, numpy as np; from bigscale.place import open_place;"
    "from bigscale.train.trackers.wandb import WeightsAndBiases;"
    "one = WeightsAndBiases(open_place(sys.argv[1]), {'seed': 0});"
    "one.scalars(2, {'d/loss': 0.5}); one.scalars(1, {'d/loss': 0.5});"
    "one.image(2, 'samples', np.zeros((8, 8, 1), np.uint8)); one.close()"
  )
  for _ in range(2):
    subprocess.run(
      [sys.executable, "-c", code, str(tmp_path)],
      env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
      cwd=pathlib.Path(__file__).parents[3],
      check=True,
      timeout=300,
    )
  found = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
  assert len({path.name for path in found}) == 1
  assert len(found) == 2
  assert all(path.stat().st_size for path in found)
