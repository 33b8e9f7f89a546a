"""A run that is killed and resumed ends like an undisturbed run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, from_config
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints
from tests.e2e import tiny
from tests.fast_compile import FLAGS


def run(workdir: pathlib.Path, kill_at: int, cache: pathlib.Path) -> int:
  env = os.environ | {"BIGSCALE_CACHE": str(cache), "XLA_FLAGS": FLAGS}
  program = [sys.executable, tiny.__file__, str(workdir), str(kill_at)]
  done = subprocess.run(program, env=env, capture_output=True, text=True)
  assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
  return done.returncode


def final_state(workdir: pathlib.Path):
  spec = from_config(tiny.smallest())
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  checkpoints = Checkpoints(workdir, spec.checkpoint)
  try:
    restored = checkpoints.restore(built.abstract_state)
  finally:
    checkpoints.close()
  return restored


def rows(workdir: pathlib.Path) -> list[dict]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {
      name: value
      for name, value in json.loads(line).items()
      if name != "seconds" and not name.startswith("perf/")
    }
    for line in lines
  ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with an undisturbed run and its cache."""
  folder = tmp_path_factory.mktemp("trained")
  assert run(folder / "run", 0, folder / "cache") == 0
  return folder


def test_a_killed_run_ends_bitwise_equal(trained, tmp_path):
  spec = from_config(tiny.smallest())
  undisturbed, disturbed = trained / "run", tmp_path / "disturbed"
  # The seed is random on purpose. `tests/e2e/soak.py` kills hundreds of times.
  seed = random.randrange(2**31)
  kill_at = random.Random(seed).randrange(1, spec.total_steps)
  code = run(disturbed, kill_at, trained / "cache")
  assert code == -signal.SIGKILL, f"seed {seed}: not killed at {kill_at}"
  assert run(disturbed, 0, trained / "cache") == 0

  one, other = final_state(undisturbed), final_state(disturbed)
  assert one.step == other.step == spec.total_steps
  assert one.data == other.data
  assert jax.tree.structure(one.state) == jax.tree.structure(other.state)
  jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
  assert rows(undisturbed) == rows(disturbed), f"seed {seed}"


def test_the_files_of_a_run(trained):
  run_dir = trained / "run"
  assert {"spec", "versions", "command"} <= json.loads(
    (run_dir / "spec.json").read_text()
  ).keys()
  grids = sorted(path.name for path in (run_dir / "samples").iterdir())
  assert grids == ["00000008.png", "00000016.png", "00000024.png"]
  last = rows(run_dir)[-1]
  assert last["step"] == 24
  assert last["kimg"] == pytest.approx(0.192)
  assert last["eval/fd_classifier"] > 0
  events = [
    json.loads(line)
    for line in (run_dir / "events.jsonl").read_text().splitlines()
  ]
  kinds = [e["event"] for e in events]
  assert [kind for kind in kinds if kind != "times"] == [
    *("start", "reference", "evaluation", "healthy", "done")
  ]
  # Times are recorded until the end.
  assert kinds[-2] == "times"
  assert not list(run_dir.rglob("*tmp*"))


@pytest.mark.slow
def test_the_best_checkpoint_survives_a_sigkill(tmp_path):
  """The best of all logged scores counts, whichever start logged it."""
  workdir = tmp_path / "run"
  program = [
    *(sys.executable, "-m", "bigscale.cli.main", "train"),
    *(f"--config={tiny.__file__}", f"--workdir={workdir}"),
    *("--config.evaluate.kimg=0.016", "--config.checkpoint.keep=1"),
  ]
  env = os.environ | {
    "BIGSCALE_CACHE": str(tmp_path / "cache"),
    "XLA_FLAGS": FLAGS,
  }

  def scored():
    if not (workdir / "metrics.jsonl").exists():
      return {}
    name = "eval/fd_classifier"
    return {r["step"]: r[name] for r in rows(workdir) if name in r}

  for enough in (3, 6):
    life = subprocess.Popen(program, env=env)
    while life.poll() is None and len(scored()) < enough:
      time.sleep(0.05)
    life.kill()
    assert life.wait() == -signal.SIGKILL
  subprocess.run(program, env=env, check=True)
  scores = scored()
  assert list(scores) == list(range(2, 25, 2))
  saved = (workdir / "checkpoints").iterdir()
  assert {int(path.name) for path in saved} == {
    *(min(scores, key=scores.get), 24)
  }


def test_a_finished_run_does_not_train_again(trained):
  before = (trained / "run" / "metrics.jsonl").read_bytes()
  assert run(trained / "run", 0, trained / "cache") == 0
  assert (trained / "run" / "metrics.jsonl").read_bytes() == before
