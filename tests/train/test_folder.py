"""A run folder can be reused by the same run only."""

import json
import subprocess
import sys

import pytest

from bigscale import temporary
from bigscale.spec import SpecError, from_config
from bigscale.train import folder as folders
from bigscale.train import sealed
from bigscale.train.claim import Claim
from tests.e2e import tiny


def _spec(**model):
  config = tiny.get_config()
  config.model.update(model)
  return from_config(config)


@pytest.fixture
def of_older_version(tmp_path):
  """Returns a folder whose spec.json lacks `model.precision`."""
  folder = folders.create(tmp_path, _spec(), [])
  written = json.loads(folder.spec.read_text())
  assert written["spec"]["model"].pop("precision") == "highest"
  # That version did not write a digest either.
  del written[sealed.KEY]
  folder.spec.write_text(json.dumps(written))
  return tmp_path


def test_a_run_of_an_older_version_can_be_read(of_older_version):
  _, spec = folders.open_existing(of_older_version)
  assert spec == _spec()


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_a_missing_setting_is_logged_and_taken_from_the_config(
  of_older_version, caplog, precision
):
  folder = folders.create(of_older_version, _spec(precision=precision), [])
  assert f"without model.precision; the run continues with '{precision}'" in (
    caplog.text
  )
  _, spec = folders.open_existing(folder.path)
  assert spec.model.precision == precision


def test_a_recorded_setting_may_not_change(tmp_path):
  folders.create(tmp_path, _spec(), [])
  with pytest.raises(SpecError, match="precision: 'highest' there, 'high'"):
    folders.create(tmp_path, _spec(precision="high"), [])


def test_other_differences_are_still_rejected(of_older_version, caplog):
  with pytest.raises(SpecError, match="remat: False there, True here"):
    folders.create(of_older_version, _spec(remat=True), [])
  assert "goes on" not in caplog.text


@pytest.fixture
def gone():
  """Returns the PID of a process that has ended."""
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def test_the_next_start_removes_partial_files(tmp_path, gone):
  folder = folders.create(tmp_path, _spec(), [])
  host = temporary.beside(folder.spec).name.split(".")[-3]
  left = [
    f".spec.json.{gone}.tmp",
    f".metrics.jsonl.{host}.{gone}-0.partial",
    f"samples/.00000008.png.{host}.{gone}-3.partial",
    f"checkpoints/8/.scores.json.{host}.{gone}-4.partial",
    f"healthy/8/.scores.json.{gone}.tmp",
    "healthy/12.orbax-checkpoint-tmp/state",
  ]
  kept = ["checkpoints/8/scores.json", "samples/00000008.png", "mine.partial"]
  for name in left + kept:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("half")
  # A reader changes nothing.
  folders.open_existing(tmp_path)
  assert all((tmp_path / name).exists() for name in left + kept)
  claim = Claim()
  folders.create(tmp_path, _spec(), [], claim)
  claim.release()
  assert not [name for name in left if (tmp_path / name).exists()]
  assert not (tmp_path / "healthy" / "12.orbax-checkpoint-tmp").exists()
  assert all((tmp_path / name).exists() for name in kept)
