"""Batches read ahead in processes equal those read ahead in threads."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import marked_set
import numpy as np
import pytest
from test_pipeline import FakeSource, assert_same, make, stream_of, take

from bigscale.data import ahead
from bigscale.data.manifest import DataError
from bigscale.spec import DataSpec, SpecError

# Its processes take a second to start, so tests share streams where possible.


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("sets") / "marked")
  marked_set.write(path, marked_set.images())
  return path


@pytest.fixture(scope="module")
def stream(directory):
  stream = make(directory, batches=2, flip=True, workers=2)
  yield stream
  stream.close()


@pytest.fixture(scope="module")
def beginning(stream):
  """State at the start of the stream."""
  return stream.get_state()


@pytest.fixture
def plain(directory):
  stream = make(directory, batches=2, flip=True)
  yield stream
  stream.close()


def pids(stream):
  return list(stream._reader._pool._processes)


def test_processes_read_the_same_as_threads(stream, beginning, plain):
  stream.set_state(beginning)
  assert stream.readers == "2 processes"
  assert_same(take(stream, 9), take(plain, 9))
  assert stream.get_state() == plain.get_state()
  assert len(pids(stream)) == 2
  assert os.getpid() not in pids(stream)


def test_batches_do_not_change_after_they_are_returned(
  stream, beginning, plain
):
  """A returned batch does not share memory with later batches."""
  stream.set_state(beginning)
  (first,) = take(stream, 1)
  take(stream, 6)
  assert_same([first], take(plain, 1))


def test_processes_resume_and_skip_like_threads(stream, beginning, plain):
  plain.set_state(beginning)
  stream.set_state(beginning)
  take(plain, 3)
  stream.set_state(plain.get_state())
  before = pids(stream)
  for one in (plain, stream):
    one.skip(16)
  assert_same(take(stream, 4), take(plain, 4))
  assert pids(stream) == before


def test_a_killed_process_is_replaced(stream, beginning, plain, caplog):
  stream.set_state(beginning)
  take(stream, 1)
  os.kill(pids(stream)[0], signal.SIGKILL)
  found = []
  until = time.monotonic() + 30
  # The other process may read many steps before Python notices.
  while "was killed; restarting" not in caplog.text:
    assert time.monotonic() < until
    found += take(stream, 1)
  found += take(stream, 4)
  take(plain, 1)
  assert_same(found, take(plain, len(found)))


def test_a_closed_stream_can_be_reopened(stream, beginning, plain):
  stream.set_state(beginning)
  take(stream, 1)
  ended = pids(stream)
  stream.close()
  for pid in ended:
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)
  with pytest.raises(ValueError, match="closed"):
    next(stream)
  stream.set_state(beginning)
  assert_same(take(stream, 2), take(plain, 2))


class Deadly(FakeSource):
  """Reading it kills the process."""

  def read(self, index):
    os.kill(os.getpid(), signal.SIGKILL)


def test_repeated_kills_end_the_run(monkeypatch):
  monkeypatch.setattr(ahead, "_RESTARTS", 1)
  stream = stream_of(Deadly(20), workers=1)
  with pytest.raises(DataError, match="were killed 2 times in a row"):
    next(stream)
  stream.close()


def test_faults_and_errors_reach_the_main_process():
  stream = stream_of(FakeSource(40, broken={5}), workers=1, max_bad_fraction=1)
  take(stream, 3)
  (fault,) = stream.take_faults()
  assert (fault.index, fault.part) == (5, 0)
  stream.close()
  stream = stream_of(FakeSource(40, broken={5}), workers=1, bad_records="error")
  take(stream, 1)
  for _ in range(2):
    with pytest.raises(DataError, match=r"record 5 of fake.*it is broken"):
      next(stream)
  assert stream.get_state()["records_consumed"] == 4
  stream.close()


def test_processes_end_when_the_program_is_killed(directory):
  child = textwrap.dedent(
    f"""
    import sys, time
    sys.path.insert(0, {os.path.dirname(__file__)!r})
    from test_pipeline import make
    if __name__ == "__main__":
      stream = make({str(directory)!r}, workers=1)
      next(stream)
      print(*stream._reader._pool._processes, flush=True)
      time.sleep(60)
    """
  )
  path = directory + ".py"
  with open(path, "w") as file:
    file.write(child)
  program = subprocess.Popen(
    [sys.executable, path],
    stdout=subprocess.PIPE,
    # Python's resource tracker reports leaks of the killed process there.
    stderr=subprocess.DEVNULL,
    text=True,
  )
  (pid,) = map(int, program.stdout.readline().split())
  program.kill()
  program.wait()
  program.stdout.close()
  until = time.monotonic() + 30
  while os.path.exists(f"/proc/{pid}") and not _is_zombie(pid):
    assert time.monotonic() < until
    time.sleep(0.05)


def _is_zombie(pid):
  with open(f"/proc/{pid}/stat") as file:
    return file.read().rpartition(")")[2].split()[0] == "Z"


def test_readers_are_threads_or_processes():
  with pytest.raises(SpecError, match=r"data\.threads=2 and data\.workers=1"):
    DataSpec(source="x", threads=2, workers=1)
  with pytest.raises(SpecError, match=r"data\.workers=-1 must be 0 or more"):
    DataSpec(source="x", workers=-1)


def test_processes_need_shared_memory(directory, monkeypatch):
  monkeypatch.delattr(os, "memfd_create")
  with pytest.raises(DataError, match="needs Linux"):
    make(directory, workers=1)


def test_images_shape_is_that_of_a_step(directory):
  slots = ahead._Slots(2, (1, 3, 4, 4, 1))
  slots[1][:] = 7
  assert slots[0].shape == (1, 3, 4, 4, 1)
  assert not np.any(slots[0])
  assert np.all(slots[1] == 7)
