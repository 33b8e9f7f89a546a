"""The watchdog: seconds by phase, hangs, and dead processes."""

import json

import pytest

from bigscale.parallel import watch as watches
from bigscale.parallel.watch import BUG, HUNG, Watch

GRACE_SECONDS = watches._GRACE_SECONDS


class Service:
  """A fake of JAX's coordination service."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value, allow_overwrite=False):
    if key in self.values and not allow_overwrite:
      raise RuntimeError("ALREADY_EXISTS")
    self.values[key] = value

  def key_value_dir_get(self, folder):
    assert folder.endswith("/")
    return [(k, v) for k, v in self.values.items() if k.startswith(folder)]


class EndedError(Exception):
  pass


def talk(watch, why):
  """Returns the code of a failure that another process may have caused."""
  return watch.fail(RuntimeError(why), BUG, may_be_remote=True)


class Clock:
  """A clock that advances only when a test says so."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(watches, "time", clock)
  return clock


@pytest.fixture(autouse=True)
def ended(monkeypatch):
  """Exiting raises the exit code, and grace periods are skipped."""

  def end(code):
    raise EndedError(code)

  monkeypatch.setattr(watches.os, "_exit", end)
  monkeypatch.setattr(watches, "_GRACE_SECONDS", 0.0)
  monkeypatch.setattr(watches, "_OWN_GRACE_SECONDS", 0.0)
  monkeypatch.setattr(watches, "_POLL_SECONDS", 0.01)
  monkeypatch.setattr(
    watches.faulthandler, "dump_traceback", lambda *a, **k: None
  )


def test_phases_add_up_to_the_elapsed_time(clock):
  watch = Watch()
  watch.take_seconds()
  with watch.phase("evaluate"):
    clock.sleep(2)
    with watch.phase("checkpoint"):
      clock.sleep(4)
    clock.sleep(1)
  clock.sleep(5)
  expected = {"start": 5, "evaluate": 3, "checkpoint": 4}
  assert watch.take_seconds() == expected
  assert "checkpoint" not in watch.take_seconds()


def test_an_open_phase_is_counted_so_far(clock):
  watch = Watch()
  watch.take_seconds()
  with watch.phase("step"):
    clock.sleep(0.02)
    assert watch.take_seconds()["step"] == pytest.approx(0.02)
    assert watch.take_seconds()["step"] == 0


def test_a_single_stuck_process_ends_itself(capfd, clock):
  watch = Watch()
  watch._limits = {"data": 0.01}
  with watch.phase("data", 7):
    watch._poll()
    clock.sleep(0.02)
    with pytest.raises(EndedError, match="76"):
      watch._poll()
  message = capfd.readouterr().err
  assert (
    "the run hangs: process 0 has been in phase data for 0 s, at step 7"
    in message
  )


def test_the_stuck_process_is_named_to_those_that_wait(capfd, clock):
  service = Service()
  stuck, waiting = (Watch(service, n, 3) for n in (1, 2))
  stuck._limits = waiting._limits = {"step": 0.02, "data": 0.04}
  with stuck.phase("data", 30), waiting.phase("step", 29):
    stuck._poll()
    clock.sleep(0.03)
    # `waiting` keeps waiting while the other process is within its limit.
    stuck._poll()
    waiting._poll()
    clock.sleep(0.03)
    with pytest.raises(EndedError, match="76"):
      stuck._poll()
    with pytest.raises(EndedError, match="76"):
      waiting._poll()
  lines = capfd.readouterr().err.splitlines()
  assert len(lines) == 2
  for line in lines:
    assert "process 1 has been in phase data" in line
    assert "waiting processes: 2" in line


def test_if_all_wait_for_the_devices_all_end(clock):
  service = Service()
  pair = [Watch(service, n, 2) for n in (0, 1)]
  with pair[0].phase("step", 3), pair[1].phase("step", 3):
    for watch in pair:
      watch._limits = {"step": 0.02}
      watch._poll()
    clock.sleep(0.03)
    with pytest.raises(EndedError, match="76"):
      pair[0]._poll()


def test_a_silent_process_is_not_waited_for_longer_than_the_limit(clock):
  service = Service()
  frozen, waiting = (Watch(service, n, 2) for n in (0, 1))
  waiting._limits = {"step": 0.02}
  with frozen.phase("compile", 3), waiting.phase("step", 3):
    frozen._poll()
    clock.sleep(0.03)
    waiting._poll()
    clock.sleep(0.03)
    with pytest.raises(EndedError, match="76"):
      waiting._poll()


def test_phases_outside_limited_have_no_limit(clock):
  watch = Watch()
  with watch.limited({"data": 0.01}), watch.phase("evaluate"):
    clock.sleep(0.02)
    watch._poll()
  with watch.phase("data"):
    clock.sleep(0.02)
    watch._poll()
  watch.stop()


def test_an_inner_phase_restarts_the_clock_of_the_outer_one(clock):
  watch = Watch()
  watch._limits = {"step": 0.05}
  with watch.phase("step"):
    for _ in range(4):
      clock.sleep(0.02)
      with watch.phase("data"):
        pass
    watch._poll()


def test_a_failure_ends_the_other_processes_with_its_code(capfd):
  service = Service()
  failing, other = (Watch(service, n, 2) for n in (0, 1))
  failing.announce(BUG, "ValueError: no")
  other.announce(2, "too late")
  with pytest.raises(EndedError, match="1"):
    other._poll()
  assert "process 0: ValueError: no" in capfd.readouterr().err
  with pytest.raises(EndedError, match="1"):
    failing._poll()


def test_a_dead_peer_is_not_a_bug(monkeypatch, clock):
  service = Service()
  left, gone = (Watch(service, n, 2) for n in (0, 1))
  for watch in (left, gone):
    watch._poll()

  def sleep(seconds):
    del seconds
    left._poll()

  monkeypatch.setattr(clock, "sleep", sleep)
  assert talk(left, "reset by peer") == HUNG
  (told,) = [v for k, v in service.values.items() if "abort" in k]
  assert "process 1 is dead" in json.loads(told)["why"]


def test_if_all_processes_run_a_failure_is_a_bug(monkeypatch, clock):
  service = Service()
  watch, other = (Watch(service, n, 2) for n in (0, 1))
  for each in (watch, other):
    each._poll()
  monkeypatch.setattr(
    watches.time, "sleep", lambda seconds: (watch._poll(), other._poll())
  )
  assert talk(watch, "out of memory") == BUG


def test_the_first_failure_decides_the_code():
  service = Service()
  watch, other = (Watch(service, n, 2) for n in (0, 1))
  other.announce(2, "no such file")
  assert talk(watch, "reset by peer") == 2


def test_without_a_coordinator_the_code_is_hung():
  class Dead(Service):
    def key_value_dir_get(self, folder):
      raise RuntimeError("UNAVAILABLE")

  assert talk(Watch(Dead(), 1, 2), "reset by peer") == HUNG


def test_other_failures_are_announced_and_printed_once(capfd):
  service = Service()
  watch, error = Watch(service, 0, 2), ValueError("no")
  assert watch.fail(error, BUG, may_be_remote=False) == BUG
  assert watch.fail(error, BUG, may_be_remote=False) == BUG
  assert capfd.readouterr().err.count("ValueError: no") == 1
  assert watch.fail(KeyError("bad input"), 2, may_be_remote=False) == 2
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("count", [2, 1000])
def test_process_0_leaves_last(count, monkeypatch):
  """The coordinator ends with process 0, and JAX aborts remaining processes."""
  monkeypatch.setattr(watches, "_GRACE_SECONDS", GRACE_SECONDS)
  first, other = (Watch(Service(), n, count) for n in (0, 1))
  # Other processes read the abort at their next poll and then have a grace
  # period.
  assert other.farewell_seconds < watches._GRACE_SECONDS
  assert first.farewell_seconds > watches._GRACE_SECONDS + first._interval


def test_hosts_report_how_busy_they_are(clock):
  service = Service()
  pair = [Watch(service, n, 2) for n in (0, 1)]
  for watch, busy in zip(pair, (1, 3), strict=True):
    with watch.phase("data", 5):
      clock.sleep(busy)
    with watch.phase("step", 5):
      clock.sleep(4 - busy)
    watch.take_seconds()
    watch._poll()
  hosts = pair[0].hosts()
  assert [hosts[n].step for n in (0, 1)] == [5, 5]
  assert [hosts[n].waited for n in (0, 1)] == [3, 1]
  assert hosts[0].busy == 1
  assert Watch().hosts() == {}
