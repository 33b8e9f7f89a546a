"""A run saves, then scores, and keeps its best checkpoint over restarts."""

import json

import jax
import pytest

from bigscale.data.manifest import DataError
from bigscale.metrics.evaluator import Scored
from bigscale.metrics.looking import Asked
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import from_config
from bigscale.train import best, loop, notes
from bigscale.train.build import build
from tests.e2e import tiny

# Scores by step; the best one is early.
SCORES = {1: 5.0, 2: 1.0, 3: 6.0, 4: 7.0, 5: 4.0, 6: 8.0}


class KilledError(BaseException):
  """Simulates a SIGKILL; `tests/e2e/test_resume.py` sends a real one."""


class Scores:
  """An evaluator that returns fixed scores, and dies at a step."""

  def __init__(self, steps, dies_at=None):
    self.reference = {"images": 0}
    self.throughput = {}
    self.failed = {}
    self.asked = Asked((), (), num_samples=4, num_classes=0)
    self.steps = iter(steps)
    self.dies_at = dies_at

  def compare(self, looked):
    step = next(self.steps)
    if step == self.dies_at:
      raise KilledError
    score = SCORES[step]
    return Scored({"fd_classifier": score, "kid_classifier": -score})


def spec_of(best=""):
  """Returns a spec with six steps; each is scored and saved."""
  config = tiny.smallest(spectra_interval=0)
  config.total_kimg = 6 * 8 / 1000
  config.log = {"steps": 1, "num_samples": 4, "tensorboard": False}
  config.evaluate = {
    "kimg": 0.008,
    "num_samples": 4,
    "batch_size": 4,
    "scores": ("fd_classifier", "kid_classifier"),
  }
  config.checkpoint = {"keep": 1, "keep_best": 1, "best": best}
  config.monitor = {"action": "off"}
  return from_config(config)


@pytest.fixture(scope="module")
def built():
  """Builds the run once, since no program depends on the settings to keep."""
  spec = spec_of()
  return build(spec, make_mesh(spec.mesh, jax.devices()[:1]))


def life(folder, built, steps, dies_at=None, best=""):
  """Trains in `folder`, scoring `steps`, until it dies or is complete."""
  spec = spec_of(best)
  prepared = loop.Prepared(built._replace(spec=spec), Scores(steps, dies_at))
  if dies_at is None:
    return loop.train(spec, folder, prepared=prepared)
  with pytest.raises(KilledError):
    loop.train(spec, folder, prepared=prepared)
  return None


def saved(folder):
  steps = (folder / "checkpoints").iterdir()
  return sorted(int(path.name) for path in steps if path.name.isdecimal())


def scored_rows(folder):
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return {
    r["step"]: r["eval/fd_classifier"]
    for r in rows
    if "eval/fd_classifier" in r
  }


def test_the_best_of_a_killed_start_is_kept(tmp_path, built):
  # Dies while it scores step 4, which is already saved.
  life(tmp_path, built, (1, 2, 3, 4), dies_at=4)
  assert saved(tmp_path) == [2, 4]
  assert 4 not in scored_rows(tmp_path)
  # The next start scores it first.
  life(tmp_path, built, (4, 5), dies_at=5)
  assert saved(tmp_path) == [2, 5]
  done = life(tmp_path, built, (5, 6))
  assert done.scores["fd_classifier"] == SCORES[6]
  assert saved(tmp_path) == [2, 6]
  assert scored_rows(tmp_path) == SCORES
  # A complete run scores nothing again.
  life(tmp_path, built, ())
  assert saved(tmp_path) == [2, 6]


def test_a_complete_run_reports_missing_scores(tmp_path, built, capsys):
  life(tmp_path, built, (1, 2, 3, 4, 5, 6))
  capsys.readouterr()
  life(tmp_path, built, ())
  said = capsys.readouterr().err
  assert "the run is at 0.048 kimg and total_kimg=0.048" in said
  assert "compute it" not in said
  (tmp_path / "checkpoints" / "6" / best.FILE).unlink()
  best.write(tmp_path / "checkpoints" / "6", 6, {"fd_classifier": 1.0})
  life(tmp_path, built, ())
  said = capsys.readouterr().err
  assert "Step 6 has no kid_classifier; compute it" in said


def test_a_score_in_a_row_is_added_to_its_checkpoint(tmp_path, built):
  life(tmp_path, built, (1, 2, 3), dies_at=3)
  (tmp_path / "checkpoints" / "3").rename(tmp_path / "3")
  (tmp_path / "checkpoints" / "2" / best.FILE).unlink()
  life(tmp_path, built, (3, 4), dies_at=4)
  assert best.read(tmp_path / "checkpoints" / "2", 2)["fd_classifier"] == 1.0
  assert saved(tmp_path) == [2, 4]


def test_another_column_can_be_selected_on_resume(tmp_path, built):
  life(tmp_path, built, (1, 2, 3, 4), dies_at=4)
  life(tmp_path, built, (4, 5), dies_at=5, best="kid_classifier")
  # Step 4 has the best score of this column, and step 5 is the newest.
  assert saved(tmp_path) == [4, 5]


def test_changed_data_are_not_damage(tmp_path, built):
  life(tmp_path, built, (1, 2, 3), dies_at=3)
  paths = [
    tmp_path / "checkpoints" / "3" / name / "metadata"
    for name in ("data", "meta")
  ]
  before = [path.read_bytes() for path in paths]
  data, meta = notes.unseal(3, *map(json.loads, before))
  for path, whole in zip(
    paths, notes.seal(3, data | {"source": "other"}, meta), strict=True
  ):
    path.write_text(json.dumps(whole))
  with pytest.raises(DataError, match="the data changed"):
    loop.train(
      spec_of(), tmp_path, prepared=loop.Prepared(built, Scores((3, 4)))
    )
  assert saved(tmp_path) == [2, 3]
  # If damage causes the difference, the step before is restored.
  paths[1].write_bytes(before[1])
  life(tmp_path, built, (3, 4), dies_at=4)
  assert (tmp_path / "damaged" / "checkpoints" / "3").is_dir()
  lines = (tmp_path / "events.jsonl").read_text().splitlines()
  (event,) = [
    e for e in map(json.loads, lines) if e["event"] == "damaged_checkpoint"
  ]
  assert (event["step"], event["of_step"]) == (2, 3)
  assert "the data position or the metadata" in event["why"]
