"""Damage to checkpoints is detected, and the newest undamaged one is used."""

import errno
import gc
import shutil

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bigscale.parallel.fingerprint import ReplicaError
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import CheckpointSpec, MeshSpec, SpecError
from bigscale.train.checkpoint import Checkpoints, DamagedError

# Orbax leaves background readers of damaged files running.
pytestmark = [
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
  pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _leave_nobody_behind():
  """Collects leftovers before the next file, where warnings are errors."""
  yield
  gc.collect()


def sharding(data=2, fsdp=2):
  mesh = make_mesh(MeshSpec(data=data, fsdp=fsdp), jax.devices()[: data * fsdp])
  return NamedSharding(mesh, PartitionSpec("fsdp"))


def state(step, where=None):
  values = np.random.default_rng(step).normal(size=(64, 512))
  return {"w": jax.device_put(values.astype(np.float32), where or sharding())}


def abstract(where=None):
  return {
    "w": jax.ShapeDtypeStruct(
      (64, 512), np.float32, sharding=where or sharding()
    )
  }


def opened(tmp_path):
  return Checkpoints(tmp_path, CheckpointSpec(keep=5, keep_best=0))


@pytest.fixture(scope="module")
def once(tmp_path_factory):
  """Saves steps 1, 2 and 3."""
  folder = tmp_path_factory.mktemp("once")
  checkpoints = opened(folder)
  for step in (1, 2, 3):
    checkpoints.save(step, state(step), {"next": step}, {"kimg": float(step)})
  checkpoints.close()
  return folder


@pytest.fixture
def saved(once, tmp_path):
  """Returns a copy of the saved steps, for a test to damage."""
  return shutil.copytree(once, tmp_path, dirs_exist_ok=True)


def largest_file(saved, step):
  files = (saved / "checkpoints" / str(step) / "state").rglob("*")
  return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def cut_short(path):
  path.write_bytes(path.read_bytes()[:1000])


DAMAGES = {
  "flip": flip_a_bit,
  "cut": cut_short,
  "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("mesh", [(2, 2), (1, 4), (1, 1)])
def test_a_checkpoint_can_be_read_on_any_mesh(saved, mesh):
  checkpoints = opened(saved)
  where = sharding(*mesh)
  restored = checkpoints.restore(abstract(where))
  checkpoints.close()
  np.testing.assert_array_equal(restored.state["w"], state(3)["w"])
  assert restored.state["w"].sharding == where
  assert restored.meta == {"kimg": 3.0}
  assert restored.damaged == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_skipped_with_an_error(saved, damage):
  DAMAGES[damage](largest_file(saved, 3))
  checkpoints = opened(saved)
  restored = checkpoints.restore(abstract())
  assert (restored.step, restored.data) == (2, {"next": 2})
  np.testing.assert_array_equal(restored.state["w"], state(2)["w"])
  ((step, why),) = restored.damaged
  assert step == 3
  flipped = why.startswith("arrays differ from what was saved: ['w']")
  assert flipped == (damage == "flip")
  checkpoints.set_damaged_aside(restored.damaged)
  # The step can be trained and saved again.
  checkpoints.save(3, state(30), {"next": 3}, {})
  checkpoints.wait()
  again = checkpoints.restore(abstract())
  checkpoints.close()
  assert (again.step, again.damaged) == (3, ())
  np.testing.assert_array_equal(again.state["w"], state(30)["w"])
  assert (saved / "damaged" / "checkpoints" / "3").is_dir()


def test_a_given_step_is_never_replaced_by_another(saved):
  flip_a_bit(largest_file(saved, 2))
  checkpoints = opened(saved)
  with pytest.raises(
    DamagedError, match=r"step 2: arrays differ from what was saved: \['w'\]"
  ):
    checkpoints.restore(abstract(), 2)
  assert checkpoints.restore(abstract(), 1).step == 1
  with pytest.raises(SpecError, match="no checkpoint of step 9"):
    checkpoints.restore(abstract(), 9)
  checkpoints.close()


def test_if_all_are_damaged_nothing_is_restored(saved):
  for step in (1, 2, 3):
    flip_a_bit(largest_file(saved, step))
  checkpoints = opened(saved)
  with pytest.raises(DamagedError, match=r"step 3: .*step 2: .*step 1: "):
    checkpoints.restore(abstract())
  checkpoints.close()


def test_replicas_that_differ_are_not_saved(tmp_path):
  where = sharding()
  whole = np.asarray(state(1)["w"])
  places = where.addressable_devices_indices_map(whole.shape)
  parts = [
    jax.device_put(whole[index] + (device.id == 0), device)
    for device, index in places.items()
  ]
  torn = jax.make_array_from_single_device_arrays(whole.shape, where, parts)
  checkpoints = opened(tmp_path)
  with pytest.raises(ReplicaError, match=r"\['w'\]\[64, 512\] on devices"):
    checkpoints.save(1, {"w": torn}, {}, {})
  assert checkpoints.steps() == []
  checkpoints.close()


def test_a_save_does_not_check_for_preemption(tmp_path, monkeypatch):
  """JAX counts the calls, so only the loop may make them, on all processes."""
  asked = []
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", asked.append
  )
  checkpoints = opened(tmp_path)
  for step in (1, 2):
    checkpoints.save(step, state(step), {"next": step}, {"kimg": 1.0})
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]
  assert asked == []


def test_a_full_disk_is_reported_before_anything_is_written(saved, monkeypatch):
  checkpoints = opened(saved)
  room = shutil.disk_usage(saved)._replace(free=64 * 512 * 4)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
  with pytest.raises(OSError, match=r"checkpoint 4 needs 0\.00 GiB") as caught:
    checkpoints.save(4, state(4), {}, {})
  assert caught.value.errno == errno.ENOSPC
  monkeypatch.undo()
  # Existing checkpoints are complete, and there is free space again.
  checkpoints.save(4, state(4), {}, {})
  checkpoints.wait()
  assert checkpoints.restore(abstract()).step == 4
  assert checkpoints.steps() == [1, 2, 3, 4]
  checkpoints.close()
