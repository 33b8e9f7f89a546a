"""Tests of the times of single steps."""

from bigscale.train.step_times import StepTimes


class Device:
  def __init__(self, peak):
    self.peak = peak

  def memory_stats(self):
    return self.peak and {"peak_bytes_in_use": self.peak}


def times(*devices):
  now = [0.0]
  found = StepTimes(devices, clock=lambda: now[0])

  def finish(*seconds):
    for each in seconds:
      now[0] += each
      found.finished()

  return found, finish


def test_quantiles_of_a_row():
  found, finish = times()
  finish(50.0, *([1.0] * 8), 3.0, 9.0)  # The first step has no beginning.
  assert found.columns() == {
    "perf/step_p50": 1.0,
    "perf/step_p90": 9.0,
    "perf/step_max": 9.0,
  }
  assert found.columns() == {}
  finish(2.0)
  assert found.columns()["perf/step_max"] == 2.0


def test_a_pause_is_no_step():
  found, finish = times()
  finish(1.0, 1.0)
  found.paused()
  finish(100.0, 1.5)
  assert found.columns()["perf/step_max"] == 1.5


def test_compilation_is_in_one_row():
  found, _ = times()
  found.compiled(12.5)
  assert found.columns() == {"perf/compile_seconds": 12.5}
  assert found.columns() == {}


def test_peak_memory_where_it_is_known():
  assert times(Device(None))[0].columns() == {}
  found, _ = times(Device(2**30), Device(3 * 2**30), Device(None))
  assert found.columns() == {"perf/hbm_peak_gib": 3.0}
