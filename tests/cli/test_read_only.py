"""Commands that only read do not modify a run that is being trained."""

import contextlib
import os
import pathlib
import shutil
import threading

import jax
import pytest

from bigscale.cli import common
from bigscale.cli.main import main
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, from_config
from bigscale.train import folder as folders
from bigscale.train import init_from
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints, DamagedError
from tests.e2e import tiny


def _spec():
  """Returns the spec of a model that compiles quickly."""
  config = tiny.smallest(spectra_interval=0)
  config.monitor = {"action": "off"}
  return from_config(config)


SPEC = _spec()


def new_built():
  return build(SPEC, make_mesh(MeshSpec(), jax.devices()[:1]))


@pytest.fixture
def saving(tmp_path, monkeypatch):
  """A run during the save of step 8, before the final rename."""
  built = new_built()
  state = jax.tree.map(
    lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype), built.abstract_state
  )
  folders.create(tmp_path, built.spec, [])
  checkpoints = Checkpoints(tmp_path, built.spec.checkpoint)
  checkpoints.save(4, state, {}, {})
  checkpoints.wait()
  going_on, held = threading.Event(), threading.Event()
  rename = os.rename

  def slow_rename(source, *rest, **options):
    if pathlib.Path(source).name.startswith("8."):
      held.set()
      assert going_on.wait(60)
    return rename(source, *rest, **options)

  monkeypatch.setattr(os, "rename", slow_rename)
  checkpoints.save(8, state, {}, {})
  assert held.wait(60)
  with contextlib.ExitStack() as undo:
    undo.callback(checkpoints.close)
    undo.callback(going_on.set)
    yield tmp_path
    going_on.set()
    # The save and the training that waits for it continue.
    checkpoints.wait()
    assert checkpoints.steps() == [4, 8]


def seen(folder):
  """Returns the contents of all files and the times of all folders."""
  return {
    path: path.stat().st_mtime_ns if path.is_dir() else path.read_bytes()
    for path in folder.rglob("*")
  }


def start_from(folder, out):
  """Reads what `train --init_from` reads before its first step."""
  del out
  return init_from.read_start(new_built(), folder).step - 4


def command(name, *options):
  return lambda folder, out: main(
    ["bigscale", name, f"--workdir={folder}"]
    + [option.replace("OUT", str(out)) for option in options]
  )


READERS = {
  "sample": command("sample", "--out=OUT/a.png", "--num=2"),
  "export": command("export", "--out=OUT/g.hlo", "--platforms=cpu"),
  "init_from": start_from,
  # Also trains the classifier.
  "evaluate": command("evaluate", "--metrics=fd_classifier"),
}
SLOW = ("evaluate",)


@pytest.mark.parametrize(
  "reader",
  [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in READERS
  ],
)
def test_a_save_in_progress_is_not_disturbed(
  reader, saving, tmp_path_factory, monkeypatch
):
  out = tmp_path_factory.mktemp(reader)
  monkeypatch.setenv("BIGSCALE_CACHE", str(out))
  before = seen(saving)
  assert any("8.orbax-checkpoint-tmp" in path.name for path in before)
  assert READERS[reader](saving, out) == 0
  assert seen(saving) == before


def test_readers_do_not_move_damaged_checkpoints(saving, tmp_path_factory):
  """A reader reports the damage and leaves the files in place."""
  shutil.rmtree(saving / "checkpoints" / "4" / "data")
  before = seen(saving)
  with pytest.raises(DamagedError, match="step 4: cannot be read"):
    common.load(str(saving), None)
  assert seen(saving) == before
  assert not (saving / "damaged").exists()
