"""The best checkpoints are kept, also when a run is killed and restarted."""

import json
import logging
import math
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import CheckpointSpec, MeshSpec
from bigscale.train import best, sealed
from bigscale.train.checkpoint import CheckpointReader, Checkpoints

LESS, MORE = "fd_classifier", "recall_classifier"


def state(step):
  where = NamedSharding(
    make_mesh(MeshSpec(), jax.devices()[:1]), PartitionSpec()
  )
  return {"w": jax.device_put(np.full(4, step, np.float32), where)}


def opened(folder, keep_best=1, column=LESS):
  return Checkpoints(
    folder, CheckpointSpec(keep=1, keep_best=keep_best, best=column)
  )


def save(checkpoints, step, score=None, column=LESS):
  checkpoints.save(step, state(step), {"next": step}, {})
  if score is not None:
    checkpoints.set_scores(step, {column: score})


@pytest.fixture
def scored(tmp_path):
  """A run with step 1, the best one, and step 3, the newest one."""
  checkpoints = opened(tmp_path)
  for step, score in ((1, 1.0), (2, 5.0), (3, 6.0)):
    save(checkpoints, step, score)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 3]
  checkpoints.close()
  return tmp_path


def steps_after(folder, step=4, score=9.0, **options):
  """Restarts the run, saves one more step, and returns the steps."""
  checkpoints = opened(folder, **options)
  save(checkpoints, step, score)
  checkpoints.close()
  return checkpoints.steps()


def test_the_best_of_an_earlier_start_is_kept(scored):
  assert steps_after(scored) == [1, 4]
  assert steps_after(scored, 5, None) == [1, 5]
  assert steps_after(scored, 6, 0.5) == [1, 6]
  assert steps_after(scored, 7, 9.0) == [6, 7]


def test_scores_can_be_better_when_higher(tmp_path):
  checkpoints = opened(tmp_path, column=MORE)
  for step, score in ((1, 0.3), (2, 0.7), (3, 0.1)):
    save(checkpoints, step, score, MORE)
  checkpoints.close()
  checkpoints = opened(tmp_path, column=MORE)
  save(checkpoints, 4, 0.5, MORE)
  checkpoints.close()
  assert checkpoints.steps() == [2, 4]


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_never_the_best(scored, lost):
  assert steps_after(scored, score=lost) == [1, 4]
  assert steps_after(scored, 5, lost) == [1, 5]


def test_without_scores_no_step_is_the_best(tmp_path):
  checkpoints = opened(tmp_path)
  for step in (1, 2, 3):
    save(checkpoints, step, math.nan if step == 2 else None)
  checkpoints.close()
  assert checkpoints.steps() == [3]


def test_another_column_can_be_selected_later(tmp_path, caplog):
  checkpoints = opened(tmp_path, keep_best=2)
  for step, less, more in ((1, 1.0, 0.1), (2, 2.0, 0.9), (3, 3.0, 0.2)):
    save(checkpoints, step)
    checkpoints.set_scores(step, {LESS: less, MORE: more})
  checkpoints.close()
  assert checkpoints.steps() == [1, 2, 3]
  assert steps_after(tmp_path, column=MORE, score=None) == [2, 4]
  # The step has no score of this column.
  with caplog.at_level(logging.WARNING):
    assert steps_after(tmp_path, 5, None, column="kid_classifier") == [5]
  assert "step 2 is not ranked: it has no score 'kid_class" in caplog.text


def test_a_damaged_best_checkpoint_is_replaced_by_the_next(scored):
  shutil.rmtree(scored / "checkpoints" / "1" / "state")
  checkpoints = opened(scored)
  save(checkpoints, 4, 2.0)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 4]
  # Restoring it moves it to `damaged`.
  shutil.rmtree(scored / "checkpoints" / "4" / "state")
  save(checkpoints, 5, 9.0)
  checkpoints.wait()
  damaged = [(1, "unreadable"), (5, "unreadable")]
  checkpoints.set_damaged_aside(damaged)
  assert checkpoints.steps() == []
  save(checkpoints, 6, 3.0)
  save(checkpoints, 7, 9.0)
  checkpoints.close()
  assert checkpoints.steps() == [6, 7]
  assert (scored / "damaged" / "checkpoints" / "1" / best.FILE).is_file()


def test_a_rollback_discards_the_scores_of_its_steps(tmp_path):
  checkpoints = opened(tmp_path, keep_best=2)
  for step, score in ((1, 4.0), (2, 5.0), (3, 1.0)):
    save(checkpoints, step, score)
  assert checkpoints.set_aside(1, attempt=0) == [2, 3]
  # The repeated steps have no scores yet.
  save(checkpoints, 2)
  assert (checkpoints.scores(2), checkpoints.scores(3)) == (None, None)
  save(checkpoints, 3, 9.0)
  save(checkpoints, 4, 8.0)
  checkpoints.close()
  # When step 4 was saved, step 3 was one of the two best.
  assert checkpoints.steps() == [1, 3, 4]
  assert steps_after(tmp_path, 5, 8.5, keep_best=2) == [1, 4, 5]
  aside = tmp_path / "abandoned" / "attempt-0" / "checkpoints"
  assert best.read(aside / "3", 3) == {LESS: 1.0}


def test_a_flipped_bit_in_a_score_deletes_no_checkpoint(scored, caplog):
  path = scored / "checkpoints" / "1" / best.FILE
  content = path.read_bytes()
  for bit in range(8 * len(content)):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
      assert best.read(path.parent, 1) == {LESS: 1.0}, f"bit {bit}"
    except sealed.SealError:
      continue
  assert steps_after(scored, score=None) == [1, 3, 4]
  assert "is kept until you delete it" in caplog.text


def test_a_partially_written_score_is_ignored(scored):
  """The run was killed after the save, while it wrote the score."""
  folder = scored / "checkpoints" / "3"
  (folder / best.FILE).rename(folder / f".{best.FILE}.77.tmp")
  assert steps_after(scored, score=None) == [1, 4]


def test_scores_of_another_step_are_rejected(scored):
  checkpoints = scored / "checkpoints"
  shutil.copy(checkpoints / "3" / best.FILE, checkpoints / "1" / best.FILE)
  with pytest.raises(ValueError, match="belongs to step 3"):
    best.read(checkpoints / "1", 1)


def test_scores_are_plain_json(scored):
  found = json.loads((scored / "checkpoints" / "1" / best.FILE).read_text())
  assert found["scores"] == {LESS: 1.0}
  assert found.keys() == {"step", "scores", "sha256"}


def test_a_reader_changes_nothing(scored):
  (scored / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()

  def seen():
    return {
      path: path.stat().st_mtime_ns if path.is_dir() else path.read_bytes()
      for path in scored.rglob("*")
    }

  before = seen()
  reader = CheckpointReader(scored)
  assert reader.steps() == [1, 3]
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state(0),
  )
  assert reader.restore(abstract).step == 3
  reader.close()
  assert seen() == before
  # It does not even create a missing folder.
  elsewhere = CheckpointReader(scored / "elsewhere")
  assert elsewhere.latest_step() is None
  elsewhere.close()
  assert not (scored / "elsewhere").exists()
