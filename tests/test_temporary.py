"""Partial files of killed processes are removed by the next writer."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bigscale import temporary

WRITER = """
import pathlib, os, signal, sys
from bigscale import temporary
with temporary.replacing(sys.argv[1]) as partial:
  partial.write_bytes(b"half")
  os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path):
  done = subprocess.run([sys.executable, "-c", WRITER, str(path)])
  assert done.returncode == -signal.SIGKILL


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def gone():
  """Returns the PID of a process that has ended."""
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def test_the_next_writer_removes_abandoned_files(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("old")
  killed(path)
  (left,) = set(names(tmp_path)) - {"a.json"}
  assert path.read_text() == "old"
  # Readers, and writers of other files, do not remove it.
  with temporary.replacing(tmp_path / "b.json") as partial:
    partial.write_text("b")
  assert left in names(tmp_path)
  with temporary.replacing(path) as partial:
    partial.write_text("new")
  assert names(tmp_path) == ["a.json", "b.json"]
  assert path.read_text() == "new"


def test_a_failed_write_keeps_the_old_file(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("old")

  def write():
    with temporary.replacing(path) as file:
      file.write_text("half")
      raise OSError("full")

  with pytest.raises(OSError, match="full"):
    write()
  assert names(tmp_path) == ["a.json"]
  assert path.read_text() == "old"


def test_files_of_running_processes_stay(tmp_path):
  path = tmp_path / "a.json"
  with temporary.replacing(path) as one:
    one.write_text("one")
    with temporary.replacing(path) as other:
      other.write_text("other")
    assert one.exists()
  assert path.read_text() == "one"


def aged(path, hours):
  path.write_text("half")
  then = time.time() - hours * 3600
  os.utime(path, (then, then))


def test_files_of_another_machine_stay_for_a_day(tmp_path, gone):
  young = tmp_path / f".a.json.elsewhere.{gone}-0.partial"
  old = tmp_path / f".a.json.elsewhere.{os.getpid()}-0.partial"
  aged(young, 20)
  aged(old, 25)
  temporary.clear(tmp_path)
  assert names(tmp_path) == [young.name]


def test_files_of_earlier_versions_are_removed(tmp_path, gone):
  for name in (f".spec.json.{gone}.tmp", f".0001.png.{gone}.partial"):
    (tmp_path / name).write_text("half")
  living = f".spec.json.{os.getpid()}.tmp"
  (tmp_path / living).write_text("half")
  aged(tmp_path / "tmpab12cd_8.partial", 25)
  aged(tmp_path / "tmpab12cd_9.partial", 1)
  temporary.clear(tmp_path)
  assert names(tmp_path) == [living, "tmpab12cd_9.partial"]


@pytest.mark.parametrize(
  "name",
  [".hidden", "a.partial", ".a.json.tmp", ".lock", ".a.12x.tmp", "tmp.partial"],
)
def test_other_files_stay(tmp_path, name):
  aged(tmp_path / name, 100)
  temporary.clear(tmp_path)
  assert names(tmp_path) == [name]


def test_folders_and_long_names(tmp_path, gone):
  folder = tmp_path / ("x" * 250)
  made = temporary.beside(folder)
  made.mkdir()
  (made / "inside").write_text("half")
  name = made.name.replace(f".{os.getpid()}-", f".{gone}-")
  made.rename(tmp_path / name)
  temporary.beside(folder)
  assert names(tmp_path) == []


def test_a_missing_folder_is_ignored(tmp_path):
  temporary.clear(tmp_path / "nowhere")
  assert not names(tmp_path)
