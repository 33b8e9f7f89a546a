"""Checkpoints on s3:// pass through a stage on a disk."""

import pathlib
import subprocess
import sys
import threading

import pytest

from bigscale.parallel import multihost
from bigscale.place import open_place
from bigscale.spec import CheckpointSpec, SpecError
from bigscale.train import staged_steps, step_names
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.lease import LeaseLostError
from tests.train.test_bucket_checkpoint import opened, save, value_of


@pytest.fixture
def stages(tmp_path, monkeypatch):
  """The folder of all stages."""
  monkeypatch.setattr(staged_steps.tempfile, "tempdir", str(tmp_path))
  return tmp_path


def test_a_step_is_complete_only_when_all_its_files_are_there(
  s3_bucket, stages, monkeypatch
):
  checkpoints = opened(s3_bucket)
  save(checkpoints, 2)
  checkpoints.wait()
  upload, left = staged_steps.StagedSteps._upload, [5]

  def upload_some(self, copy, file):
    left[0] -= 1
    if left[0] < 0:
      raise OSError("connection lost")
    upload(self, copy, file)

  with monkeypatch.context() as patch:
    patch.setattr(staged_steps.StagedSteps, "_upload", upload_some)
    checkpoints.attend(Quiet(), 100.0)
    save(checkpoints, 4)
    checkpoints.wait()
  files = step_names.all_names(open_place(f"{s3_bucket}/checkpoints"))
  assert len(files["4"]) > 0
  assert step_names.COMMITTED not in files["4"]
  assert checkpoints.steps() == [2]
  save(checkpoints, 4, value=40)
  checkpoints.close()
  again = opened(s3_bucket)
  assert again.steps() == [2, 4]
  assert value_of(again, 4) == 40
  again.close()


class Quiet:
  """Reports nothing."""

  def flush(self):
    pass

  def event(self, kind, step, **fields):
    pass


def test_a_replaced_holder_commits_nothing(s3_bucket, stages):
  class Claim:
    def verify(self):
      if list(stages.glob("*/*/state")):
        raise LeaseLostError("another run")

    def check(self):
      pass

  checkpoints = opened(s3_bucket, claim=Claim())
  checkpoints.attend(Quiet(), 100.0)
  save(checkpoints, 2)
  with pytest.raises(LeaseLostError):
    checkpoints.wait()
  checkpoints.close()
  assert step_names.complete(open_place(f"{s3_bucket}/checkpoints")) == {}


def test_stages_are_deleted(s3_bucket, stages):
  checkpoints = opened(s3_bucket)
  save(checkpoints, 2)
  checkpoints.wait()
  (mine,) = stages.iterdir()
  # A process that was killed, and one of another machine or container.
  ended = subprocess.Popen([sys.executable, "-c", ""])
  ended.wait()
  killed = mine.with_name(f"{staged_steps._own()}{ended.pid}-x")
  other = mine.with_name(f"{staged_steps._PREFIX}00000000-{ended.pid}-x")
  for path in (killed, other):
    (path / "2").mkdir(parents=True)
  another = opened(s3_bucket)
  assert not killed.exists()
  assert mine.exists()
  another.close()
  checkpoints.close()
  assert list(stages.iterdir()) == [other]


def test_processes_that_do_not_share_the_stage_are_refused(
  s3_bucket, stages, monkeypatch
):
  monkeypatch.setattr(multihost, "all_true", lambda name, value: False)
  with pytest.raises(SpecError, match="set TMPDIR to a folder"):
    opened(s3_bucket)


def test_two_processes_may_download_a_step(s3_bucket, stages):
  checkpoints = opened(s3_bucket)
  save(checkpoints, 2)
  checkpoints.close()
  place = open_place(f"{s3_bucket}/checkpoints")
  copy, read = pathlib.Path(stages) / "2", []

  class Counted:
    list = staticmethod(place.list)

    def read(self, name):
      read.append(name)
      return place.read(name)

  downloads = [
    threading.Thread(target=staged_steps._download, args=(Counted(), "2", copy))
    for _ in range(4)
  ]
  for download in downloads:
    download.start()
  for download in downloads:
    download.join()
  found = {
    path.relative_to(stages).as_posix(): path.read_bytes()
    for path in copy.rglob("*")
    if path.is_file()
  }
  assert found == {e.name: place.read(e.name) for e in place.list("2/")}
  assert sorted(read) == sorted(found)


def test_old_healthy_states_are_deleted(s3_bucket, stages):
  kept = CheckpointSpec(keep=1, keep_best=0)
  checkpoints = Checkpoints(s3_bucket, kept, "healthy")
  for step in (2, 4):
    save(checkpoints, step)
  checkpoints.close()
  place = open_place(f"{s3_bucket}/healthy")
  assert set(step_names.all_names(place)) == {"4"}


def test_the_stage_is_empty_after_a_save(s3_bucket, stages):
  checkpoints = opened(s3_bucket)
  for step in (2, 4):
    save(checkpoints, step)
  checkpoints.wait()
  left = {path.name for path in stages.rglob("*") if path.is_file()}
  assert left <= {staged_steps._METADATA}
  assert value_of(checkpoints, 2) == 2
  checkpoints.close()


def test_a_replaced_holder_deletes_no_step_of_the_next_one(s3_bucket, stages):
  first = opened(s3_bucket, keep=1)
  save(first, 2)
  first.wait()
  second = opened(s3_bucket, keep=5)
  for step in (4, 6):
    save(second, step)
  second.wait()
  # Its own step is the only one that the first holder knows.
  first._folders.keep([])
  assert second._folders.existing() == [4, 6]
  first.close()
  second.close()


def test_a_holder_that_knows_of_its_loss_deletes_nothing(s3_bucket, stages):
  class Lost:
    def verify(self):
      raise LeaseLostError("another run")

  checkpoints = opened(s3_bucket)
  save(checkpoints, 2)
  checkpoints.wait()
  checkpoints._folders._claim = Lost()
  checkpoints._manager.all_steps = lambda: []
  checkpoints._delete_old()
  assert checkpoints._folders.existing() == [2]
  checkpoints._folders._claim = None
  checkpoints.close()
