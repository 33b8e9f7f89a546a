"""Evaluation in two processes: errors and interruption affect both."""

import json
import time

import pytest

from bigscale.train import best
from tests.parallel.processes import run_processes

pytestmark = pytest.mark.slow

SCORED = (12, 24)


@pytest.fixture
def meet(tmp_path, tmp_path_factory):
  """Runs WHAT in two processes; returns their exit codes and the seconds."""
  shared = tmp_path_factory.getbasetemp() / "scores_in_processes"

  def run(what):
    started = time.monotonic()
    finished = run_processes(
      ["-m", "tests.e2e.faulty_scores", str(tmp_path / "run"), what],
      2,
      1,
      timeout=500,
      environ={
        "JAX_COMPILATION_CACHE_DIR": str(shared / "programs"),
        "BIGSCALE_CACHE": str(shared / "cache"),
      },
      check=False,
    )
    assert "Traceback" not in finished[1].stderr, finished[1].stderr
    return [each.code for each in finished], time.monotonic() - started

  return run


def events(tmp_path, kind):
  lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
  return [e for e in map(json.loads, lines) if e["event"] == kind]


def scores(tmp_path, step):
  return best.read(tmp_path / "run" / "checkpoints" / str(step), step)


def test_an_error_in_a_score_ends_neither_process(meet, tmp_path):
  codes, _ = meet("fail")
  assert codes == [0, 0]
  (event,) = events(tmp_path, "score_failed")
  assert (event["step"], event["score"]) == (12, "fd_classifier")
  assert event["error"] == "MemoryError: Unable to allocate 9 GiB"
  assert scores(tmp_path, 24)["fd_classifier"] > 0


@pytest.mark.parametrize("what", ["terminate_comparing", "terminate_drawing"])
def test_sigterm_interrupts_the_evaluation_on_all_processes(
  meet, tmp_path, what
):
  codes, seconds = meet(what)
  assert codes == [75, 75]
  (event,) = events(tmp_path, "preempted")
  assert event["step"] == 12
  assert scores(tmp_path, 12) is None
  # The interrupted evaluation would take a minute.
  (began,) = events(tmp_path, "reference")
  assert event["time"] - began["time"] < 30, seconds
  codes, _ = meet("nothing")
  assert codes == [0, 0]
  for step in SCORED:
    assert scores(tmp_path, step)["fd_classifier"] > 0
  assert not events(tmp_path, "score_failed")
