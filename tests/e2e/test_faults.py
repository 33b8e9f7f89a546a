"""After a fault in one process, all processes end soon with the right code."""

import itertools
import json
import subprocess
import time

import pytest

from tests.parallel.processes import run_processes

pytestmark = pytest.mark.slow

STEPS = 24
AT = 13
# JAX aborts if the coordinator is gone. `bigscale train --local_processes=1`
# turns this into exit code 76.
ABORTED = -6


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
  """The folder of the compilation cache, shared by all tests."""
  return tmp_path_factory.mktemp("programs")


@pytest.fixture
def meet(tmp_path, programs):
  """Runs WORKDIR FAULT PROCESS STEP in two processes."""

  def run(fault, process=1, at=AT, name="run", processes=2):
    return run_processes(
      [
        *("-m", "tests.e2e.faulty"),
        *(str(tmp_path / name), fault, str(process), str(at)),
      ],
      processes,
      1,
      timeout=280,
      environ={
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "BIGSCALE_HEARTBEAT_TIMEOUT": "10",
      },
      check=False,
    )

  return run


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 64 MiB, mounted at `run`."""
  place = tmp_path / "run"
  place.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("no file system can be mounted here")
  yield place
  subprocess.run(["umount", "-l", str(place)], check=True)


def rows_of(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def steps(workdir):
  return [row["step"] for row in rows_of(workdir)]


def codes(finished):
  return [each.code for each in finished]


@pytest.mark.parametrize(
  ("fault", "process", "code", "words"),
  [
    ("raise", 1, 1, "ValueError: a bug of one process"),
    # Process 0 also runs the coordinator.
    ("raise", 0, 1, "ValueError: a bug of one process"),
    ("disk_full", 1, 1, "No space left on device"),
    ("bad_input", 1, 2, "a file of one process is gone"),
  ],
)
def test_all_processes_exit_with_the_code_of_the_failed_one(
  meet, fault, process, code, words
):
  finished = meet(fault, process)
  assert codes(finished) == [code, code], finished
  # Both processes report the reason.
  for each in finished:
    assert words in each.stderr


@pytest.mark.parametrize("process", [0, 1])
def test_all_processes_end_after_a_kill_and_the_run_can_resume(
  meet, tmp_path, process
):
  finished = meet("kill", process)
  assert finished[process].code == -9
  assert finished[1 - process].code in (76, ABORTED), finished
  again = meet("none")
  assert codes(again) == [0, 0], again
  assert steps(tmp_path / "run")[-1] == STEPS


def test_a_hanging_process_is_named_and_all_end(meet):
  started = time.monotonic()
  finished = meet("hang")
  assert codes(finished) == [76, 76], finished
  for each in finished:
    assert "nothing moves: process 1 is in data" in each.stderr
    # The message contains the stacks.
    assert "in _next_batch" in each.stderr or "Thread 0x" in each.stderr
  assert "in next_batch_or_fault" in finished[1].stderr
  assert time.monotonic() - started < 250


def test_sigterm_to_one_process_saves_the_same_step_on_all(meet, tmp_path):
  finished = meet("terminate")
  assert codes(finished) == [75, 75], finished
  kept = tmp_path / "run" / "checkpoints"
  saved = max(int(p.name) for p in kept.iterdir() if p.name.isdigit())
  assert saved >= AT
  for each in finished:
    assert f"step {saved} is saved" in each.stderr
  again = meet("none")
  assert codes(again) == [0, 0], again
  straight = meet("none", name="straight")
  assert codes(straight) == [0, 0]
  resumed, whole = rows_of(tmp_path / "run"), rows_of(tmp_path / "straight")
  for one, other in zip(resumed, whole, strict=True):
    assert one["step"] == other["step"]
    assert one.get("d/loss") == other.get("d/loss")


def test_all_processes_end_after_one_is_stopped(meet, tmp_path):
  """SIGSTOP simulates a frozen machine."""
  finished = meet("stop")
  assert finished[0].code in (76, ABORTED), finished
  assert finished[1].code == -9
  # In half seconds: process 0 ended soon after the heartbeat timeout of 10 s.
  assert int((tmp_path / "run" / "waited").read_text()) < 70
  again = meet("none")
  assert codes(again) == [0, 0], again


def test_a_full_disk_is_reported_and_damages_no_checkpoint(meet, small_disk):
  finished = meet("disk_fills_up", process=0)
  assert codes(finished) == [1, 1], finished
  assert any(
    "disk" in each.stderr or "No space left" in each.stderr for each in finished
  )
  kept = small_disk / "checkpoints"
  before = {p.name for p in kept.iterdir() if p.name.isdigit()}
  assert before
  (small_disk / "filler").unlink()
  again = meet("none")
  assert codes(again) == [0, 0], again
  assert steps(small_disk)[-1] == STEPS
  assert not list(kept.glob("*tmp*"))


def test_other_numbers_of_processes_read_the_same_batches(meet, tmp_path):
  for processes, at in ((2, 7), (4, 15)):
    finished = meet("terminate", at=at, processes=processes)
    assert codes(finished) == [75] * processes, finished
  (last,) = meet("none", processes=1)
  assert last.code == 0, last
  straight = meet("none", name="straight")
  assert codes(straight) == [0, 0]
  losses = [
    [row["d/loss"] for row in rows_of(tmp_path / name) if "d/loss" in row]
    for name in ("run", "straight")
  ]
  # Sums over other parts of a batch round differently. Another batch would
  # differ by far more.
  assert losses[0] == pytest.approx(losses[1], rel=1e-3)
  different = [abs(a - b) / b for a, b in zip(*losses, strict=True)]
  moved = [abs(a - b) / b for a, b in itertools.pairwise(losses[1])]
  assert max(different) < 0.1 * min(moved)


def test_a_slow_host_is_named(meet, tmp_path):
  finished = meet("slow", at=2)
  assert codes(finished) == [0, 0], finished
  found = [row for row in rows_of(tmp_path / "run") if "hosts/busiest" in row]
  assert found
  assert {row["hosts/busiest"] for row in found} == {1.0}
  for row in found:
    # The median of two hosts is their mean.
    assert row["hosts/busy_max"] > 1.3 * row["hosts/busy_median"] > 1.0
