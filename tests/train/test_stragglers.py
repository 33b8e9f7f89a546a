"""The host that spends the most time on its own work is the slow one."""

import pytest

from bigscale.parallel.watch import Host
from bigscale.train import stragglers
from bigscale.train.stragglers import Stragglers


class Clock:
  now = 0.0

  def monotonic(self):
    return self.now


class Watched:
  """A fake watchdog that returns given progress."""

  def __init__(self, said):
    self.said = said

  def hosts(self):
    return self.said


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(stragglers, "time", clock)
  return clock


def test_the_busiest_host_is_named(clock):
  watched = Watched({n: Host(100, 10.0, 90.0) for n in range(4)})
  found = Stragglers(watched)
  assert found.columns() == {}
  clock.now = 21.0
  # There is no earlier progress to compare with.
  assert found.columns() == {}
  watched.said = {
    **{n: Host(200, 12.0, 98.0) for n in (0, 1, 3)},
    2: Host(200, 18.0, 92.0),
  }
  clock.now = 30.0
  assert found.columns() == {}
  clock.now = 42.0
  assert found.columns() == {
    "hosts/busy_median": pytest.approx(0.02),
    "hosts/busy_max": pytest.approx(0.08),
    "hosts/busiest": 2.0,
  }


@pytest.mark.parametrize("said", [{}, {0: Host(200, 3.0, 1.0)}])
def test_a_single_host_has_no_columns(clock, said):
  found = Stragglers(Watched({0: Host(100, 1.0, 1.0)}))
  clock.now = 21.0
  found.columns()
  found._watch.said = said
  clock.now = 42.0
  assert found.columns() == {}


def test_hosts_without_progress_are_ignored(clock):
  said = {n: Host(100, 10.0, 0.0) for n in range(3)}
  found = Stragglers(Watched(said))
  for now in (21.0, 42.0):
    clock.now = now
    assert found.columns() == {}
