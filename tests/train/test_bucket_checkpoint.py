"""Checkpoints on a bucket: names, steps set aside, and saves that fail."""

import jax
import numpy as np
import pytest

from bigscale.place import open_place
from bigscale.spec import CheckpointSpec, SpecError
from bigscale.train import best, bucket_checkpoint, step_names, steps
from bigscale.train.bucket_checkpoint import BucketCheckpoints, SaveFailedError
from bigscale.train.checkpoint import CheckpointReader, Damage, DamagedError
from bigscale.train.lease import Lease, LeaseLostError

WHERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ABSTRACT = {"w": jax.ShapeDtypeStruct((64, 64), np.float32, sharding=WHERE)}


@pytest.fixture(params=["gs", "s3"])
def home(request):
  """The address of a run that no other test uses."""
  return request.getfixturevalue(f"{request.param}_bucket")


def opened(home, claim=None, **spec):
  spec = {"keep": 5, "keep_best": 0} | spec
  return BucketCheckpoints(home, CheckpointSpec(**spec), claim=claim)


def state(value):
  return {"w": jax.device_put(np.full((64, 64), value, np.float32), WHERE)}


def save(checkpoints, step, value=None):
  checkpoints.save(step, state(step if value is None else value), {}, {})


def value_of(checkpoints, step):
  return float(checkpoints.restore(ABSTRACT, step).state["w"][0, 0])


def names(home):
  return sorted(step_names.all_names(open_place(f"{home}/checkpoints")))


def test_a_step_set_aside_is_saved_again_under_another_name(home):
  checkpoints = opened(home)
  for step in (2, 4, 6):
    save(checkpoints, step)
  assert checkpoints.set_aside(2, attempt=0) == [4, 6]
  assert checkpoints.steps() == [2]
  save(checkpoints, 4, value=40)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 4]
  assert value_of(checkpoints, 4) == 40
  checkpoints.close()
  assert names(home) == ["2", "4", "4.1", "6"]
  marker = open_place(home).read(f"checkpoints/4/{step_names.MARKER}")
  assert b"abandoned/attempt-0" in marker
  reader = CheckpointReader(home)
  assert reader.steps() == [2, 4]
  assert value_of(reader, 4) == 40
  reader.close()


def test_a_damaged_step_is_skipped_and_set_aside(home):
  checkpoints = opened(home)
  save(checkpoints, 2)
  save(checkpoints, 4)
  checkpoints.close()
  place = open_place(home)
  place.delete("checkpoints/4/state/manifest.ocdbt")
  checkpoints = opened(home)
  found = checkpoints.restore(ABSTRACT)
  assert (found.step, [step for step, _ in found.damaged]) == (2, [4])
  checkpoints.set_damaged_aside(found.damaged)
  assert checkpoints.steps() == [2]
  checkpoints.close()


def test_a_torn_step_is_not_read_and_its_name_not_used_again(home):
  """Whoever was writing it may only be stopped, and may write again."""
  checkpoints = opened(home)
  save(checkpoints, 2)
  save(checkpoints, 4)
  checkpoints.close()
  place = open_place(home)
  place.delete(f"checkpoints/4/{step_names.COMMITTED}")
  checkpoints = opened(home)
  assert checkpoints.steps() == [2]
  save(checkpoints, 4, value=40)
  checkpoints.wait()
  # The stopped process completes its save.
  place.write(f"checkpoints/4/{step_names.COMMITTED}", b"late")
  assert value_of(checkpoints, 4) == 40
  checkpoints.close()


def test_a_step_that_vanishes_is_no_error(home):
  """A holder that was replaced may still be deleting it."""
  checkpoints = opened(home)
  save(checkpoints, 2)
  checkpoints.wait()
  folders = checkpoints._folders
  assert best.Ranking(1, "").load(folders, [2, 99]) == [[2, None], [99, None]]
  checkpoints.set_damaged_aside([Damage(99, "gone")])
  for entry in open_place(home).list("checkpoints/2/"):
    open_place(home).delete(entry.name)
  with pytest.raises(DamagedError, match="no undamaged checkpoint"):
    checkpoints.restore(ABSTRACT, 2)
  checkpoints.close()


def test_old_and_all_but_the_best_steps_are_deleted(home):
  checkpoints = opened(home, keep=1, keep_best=1, best="fd_classifier")
  for step, score in ((1, 1.0), (2, 5.0), (3, 6.0)):
    save(checkpoints, step)
    checkpoints.set_scores(step, {"fd_classifier": score})
  checkpoints.close()
  assert names(home) == ["1", "3"]


def test_a_lost_lease_commits_nothing(home):
  claim = Lease(60.0)
  claim.take(home)
  checkpoints = opened(home, claim)
  save(checkpoints, 2)
  checkpoints.wait()
  open_place(home).create("leases/000002", b"{}")
  with pytest.raises(LeaseLostError):
    save(checkpoints, 4)
  with pytest.raises(LeaseLostError):
    checkpoints.set_aside(0, attempt=0)
  checkpoints.close()
  claim.release()
  assert CheckpointReader(home).steps() == [2]


def test_a_lease_lost_during_a_save_commits_nothing(home):
  claim = Lease(60.0)
  claim.take(home)
  checkpoints = opened(home, claim)
  verify = claim.verify
  calls = []

  def and_then_it_is_lost():
    if calls:
      open_place(home).create("leases/000002", b"{}")
    calls.append(1)
    verify()

  claim.verify = and_then_it_is_lost
  save(checkpoints, 2)
  with pytest.raises(LeaseLostError):
    checkpoints.wait()
  checkpoints.close()
  claim.release()
  assert names(home) == ["2"]
  assert CheckpointReader(home).steps() == []


class Reports:
  """A recorder that keeps the events."""

  def __init__(self):
    self.events = []

  def flush(self):
    pass

  def event(self, kind, step, **fields):
    self.events.append((kind, step))


@pytest.fixture
def failing(home, monkeypatch):
  """Checkpoints with a clock, and a switch that lets saves fail."""
  checkpoints = opened(home)
  checkpoints.now = 0.0
  checkpoints._clock = lambda: checkpoints.now
  reports = Reports()
  checkpoints.attend(reports, seconds=100.0)
  checkpoints.down = False

  def flush():
    if checkpoints.down:
      raise OSError("no network")

  reports.flush = flush
  yield checkpoints, reports
  checkpoints.close()


def test_training_goes_on_while_saves_fail(failing):
  checkpoints, reports = failing
  save(checkpoints, 2)
  checkpoints.down = True
  for step in (4, 6):
    checkpoints.now += 40.0
    save(checkpoints, step)
  assert checkpoints.steps() == [2]
  checkpoints.down = False
  save(checkpoints, 8)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 8]
  assert reports.events == [("save_failed", 4), ("save_failed", 6)]
  # The time starts anew at the next failure.
  checkpoints.down = True
  checkpoints.now += 90.0
  save(checkpoints, 10)


def test_a_run_ends_if_saves_fail_for_too_long(failing):
  checkpoints, _ = failing
  checkpoints.down = True
  save(checkpoints, 2)
  checkpoints.now += 99.0
  save(checkpoints, 4)
  checkpoints.now += 1.0
  with pytest.raises(SaveFailedError, match=r"operations\.unsaved_seconds=100"):
    save(checkpoints, 6)


def test_a_failure_after_the_call_is_noticed(failing, monkeypatch):
  checkpoints, reports = failing
  save(checkpoints, 2)
  checkpoints.wait()

  save(checkpoints, 4)
  wait = checkpoints._manager.wait_until_finished

  def fail():
    wait()
    raise RuntimeError("cannot write an array")

  monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
  save(checkpoints, 6)
  assert reports.events == [("save_failed", 4)]
  checkpoints.wait()
  assert checkpoints.steps()[-1] == 6


def test_the_last_step_is_saved_before_the_run_ends(failing, monkeypatch):
  checkpoints, reports = failing

  def and_then_it_works_again(_):
    checkpoints.down = False

  monkeypatch.setattr(bucket_checkpoint.time, "sleep", and_then_it_works_again)
  checkpoints.down = True
  save(checkpoints, 2)
  checkpoints.finish(2, lambda: save(checkpoints, 2))
  assert checkpoints.steps() == [2]
  assert reports.events == [("save_failed", 2)]


def test_other_stores_are_refused():
  with pytest.raises(SpecError, match="use a gs://"):
    steps.at("hdfs://host/run/checkpoints")


def test_old_steps_are_deleted(home):
  checkpoints = opened(home, keep=2)
  for step in (2, 4, 6):
    save(checkpoints, step)
  checkpoints.close()
  assert names(home) == ["4", "6"]
  checkpoints = opened(home, keep=1)
  checkpoints.set_scores(4, {"fd_classifier": 1.0})
  save(checkpoints, 8)
  checkpoints.close()
  assert names(home) == ["8"]
