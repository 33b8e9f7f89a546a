"""The sweep of losses on 1000 modes, killed and resumed.

Embedded images replace MNIST digits, which need a download. They also have 1000
modes in stacks of three. docs/reference/metrics.md has the results on digits.
"""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("loss-rpgan_r1_r2_seed-0", "loss-gan_r1_seed-0")
COMMAND = "from bigscale.cli.main import entry_point; entry_point()"


def command(out):
  return [
    *(sys.executable, "-c", COMMAND, "scaling", "sweep"),
    f"--config={ROOT / 'tests/e2e/stacked_small.py'}",
    f"--out={out}",
    f"--only={','.join(NAMES)}",
  ]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
  """The sweep's folder after a kill in the first run and a second start."""
  out = tmp_path_factory.mktemp("study")
  environ = {
    **os.environ,
    # The config is in the package `tests`.
    "PYTHONPATH": str(ROOT),
    "BIGSCALE_CACHE": str(tmp_path_factory.mktemp("cache")),
  }
  first = subprocess.Popen(command(out), env=environ, cwd=out)
  saved = out / "runs" / NAMES[0] / "checkpoints"
  while first.poll() is None and not any(
    entry.name.isdigit() for entry in saved.glob("*")
  ):
    time.sleep(0.2)
  first.send_signal(signal.SIGKILL)
  assert first.wait() == -signal.SIGKILL
  subprocess.run(command(out), env=environ, cwd=out, check=True, timeout=280)
  return out


def rows(out, name):
  with (out / name).open() as file:
    return list(csv.DictReader(file))


def test_a_killed_sweep_resumes(out):
  folder = out / "runs" / NAMES[0]
  events = (folder / "events.jsonl").read_text().splitlines()
  starts = [e for e in map(json.loads, events) if e["event"] == "start"]
  assert len(starts) == 2
  assert starts[1]["step"] > 0
  ended = {row["run"]: row["status"] for row in rows(out, "runs.csv")}
  assert all(ended[name] == "done" for name in NAMES)


def test_training_finds_modes_and_the_table_has_the_floor(out):
  for name in NAMES:
    (end,) = [row for row in rows(out, "runs.csv") if row["run"] == name]
    assert float(end["floor_modes_classifier"]) > 950
    assert float(end["floor_modes_kl_classifier"]) < 0.3
    assert 20 < float(end["modes_classifier"]) <= 1000
    curve = [row for row in rows(out, "curves.csv") if row["run"] == name]
    half, whole = [float(row["fd_classifier"]) for row in curve]
    assert whole < half
