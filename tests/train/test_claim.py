"""A folder belongs to one run at a time, until the process ends."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from bigscale.cli.main import main
from bigscale.spec import SpecError
from bigscale.train import claim
from bigscale.train.claim import FILE, Claim
from tests.e2e import tiny

HOLD = """
import pathlib, sys, time
from bigscale.train.claim import Claim
claim = Claim()
claim.take(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """Starts another process that locks the folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def test_a_folder_in_use_is_rejected_and_its_holder_named(tmp_path, holder):
  with pytest.raises(SpecError, match=f"in use .*process {holder.pid} with"):
    Claim().take(tmp_path)


def test_the_command_fails_before_it_does_anything(tmp_path, holder, capsys):
  started = time.monotonic()
  code = main(
    [
      *("bigscale", "train"),
      f"--config={tiny.__file__}",
      f"--workdir={tmp_path}",
    ]
  )
  assert code == 2
  assert "is in use by another run" in capsys.readouterr().err
  assert time.monotonic() - started < 60
  assert not (tmp_path / "spec.json").exists()


def test_a_killed_process_releases_the_lock(tmp_path, holder):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  mine = Claim()
  mine.take(tmp_path)
  assert (tmp_path / FILE).read_text().startswith(f"process {os.getpid()} ")
  mine.release()


def elsewhere(folder):
  (folder / FILE).write_text("process 7 on another-machine\n")


def test_a_lock_of_another_machine_is_waited_for(tmp_path, holder, monkeypatch):
  elsewhere(tmp_path)

  def and_then_it_is_gone(_):
    holder.kill()
    holder.wait()

  monkeypatch.setattr(claim.time, "sleep", and_then_it_is_gone)
  mine = Claim()
  mine.take(tmp_path)
  mine.release()


def test_a_holder_without_a_supervisor_is_waited_for(tmp_path, monkeypatch):
  hold = shlex.join([sys.executable, "-c", HOLD, str(tmp_path)])
  shell = subprocess.Popen(
    ["bash", "-c", f"{hold} & echo $!; wait"],
    stdout=subprocess.PIPE,
    text=True,
  )
  orphan = int(shell.stdout.readline())
  assert shell.stdout.readline() == "held\n"
  with pytest.raises(SpecError, match="in use"):
    Claim().take(tmp_path)
  shell.kill()
  shell.wait()
  waited = []

  def and_then_it_has_saved(seconds):
    waited.append(seconds)
    os.kill(orphan, signal.SIGKILL)
    shell.stdout.read()

  monkeypatch.setattr(claim.time, "sleep", and_then_it_has_saved)
  mine = Claim()
  mine.take(tmp_path)
  assert waited
  mine.release()
  shell.stdout.close()


def test_the_wait_for_such_a_holder_is_limited(tmp_path, holder, monkeypatch):
  elsewhere(tmp_path)
  monkeypatch.setattr(claim, "_LEASE_SECONDS", 0.2)
  monkeypatch.setattr(claim, "_POLL_SECONDS", 0.05)
  with pytest.raises(SpecError, match="process 7 on another-machine"):
    Claim().take(tmp_path)


def test_a_released_folder_can_be_locked_again(tmp_path):
  mine = Claim()
  for _ in range(2):
    mine.take(tmp_path)
    mine.release()
  assert (tmp_path / FILE).read_text() == ""


def test_a_file_system_without_locks_only_warns(tmp_path, monkeypatch, caplog):
  def refuse(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(fcntl, "flock", refuse)
  Claim().take(tmp_path)
  assert f"cannot lock {tmp_path} (Operation not supported)" in caplog.text
