"""Throughput, measured with a fake clock."""

from bigscale.metrics.pace import Pace


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def test_rate_excludes_the_first_call():
  clock = Clock()
  pace = Pace(clock)

  def work(seconds):
    clock.now += seconds
    return seconds

  assert pace.of(10, lambda: work(30)) == 30
  assert pace.summary() == {"seconds": 30, "images_per_second": 0.33}
  pace.of(10, lambda: work(2))
  pace.of(5, lambda: work(1))
  assert pace.summary() == {"seconds": 33, "images_per_second": 5}


def test_only_the_production_of_batches_is_timed():
  clock = Clock()
  pace = Pace(clock)

  def batches():
    for size in (4, 4, 2):
      clock.now += 2
      yield [0] * size, None

  for _ in pace.over(batches()):
    clock.now += 100
  assert pace.summary() == {"seconds": 6, "images_per_second": 1.5}


def test_summary_without_calls_is_zero():
  assert Pace().summary() == {"seconds": 0, "images_per_second": 0}
