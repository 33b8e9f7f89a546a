"""One run writes to a folder on a bucket; one that is lost is replaced."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading

import pytest

from bigscale.place import open_place
from bigscale.spec import SpecError
from bigscale.train import lease
from bigscale.train.lease import Lease, LeaseLostError

SECONDS = 60.0
HOLD = """
import sys, time
from bigscale.train.lease import Lease
Lease(60.0).take(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


class Clock:
  """A clock that only moves when somebody sleeps."""

  def __init__(self):
    self.now, self.meanwhile = 1000.0, lambda: None

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds
    self.meanwhile()


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def held(tmp_path, clock, monkeypatch):
  """A lease without a thread: the test makes its beats."""
  monkeypatch.setattr(threading.Thread, "start", lambda self: None)
  monkeypatch.setattr(threading.Thread, "join", lambda self: None)
  holder = Lease(SECONDS, clock=clock, sleep=clock.sleep)
  holder.take(tmp_path)
  return holder


def elsewhere(monkeypatch):
  """Makes the next lease believe that it is on another machine."""
  monkeypatch.setattr(lease, "machine", lambda: "another machine")


def test_a_rival_is_refused_and_the_holder_named(tmp_path, held, clock):
  clock.meanwhile = held._beat
  began = clock.now
  with pytest.raises(SpecError, match=f"in use .*process {os.getpid()} with"):
    Lease(SECONDS, clock=clock, sleep=clock.sleep).take(tmp_path)
  assert clock.now - began < SECONDS / 2
  held.check()


def test_a_lost_holder_is_replaced_after_the_time_of_the_lease(
  tmp_path, held, clock, monkeypatch
):
  elsewhere(monkeypatch)
  began = clock.now
  taker = Lease(SECONDS, clock=clock, sleep=clock.sleep)
  taker.take(tmp_path)
  assert taker.number == held.number + 1 == 2
  assert SECONDS <= clock.now - began <= 1.2 * SECONDS


def test_the_longer_time_of_two_counts(tmp_path, held, clock, monkeypatch):
  elsewhere(monkeypatch)
  began = clock.now
  Lease(SECONDS / 10, clock=clock, sleep=clock.sleep).take(tmp_path)
  assert clock.now - began >= SECONDS


def test_a_holder_on_another_machine_has_time_to_end(
  tmp_path, held, clock, monkeypatch
):
  elsewhere(monkeypatch)
  clock.meanwhile = held._beat
  began = clock.now
  with pytest.raises(SpecError, match="in use"):
    Lease(SECONDS, clock=clock, sleep=clock.sleep).take(tmp_path)
  assert clock.now - began >= SECONDS
  clock.meanwhile = held.release
  Lease(SECONDS, clock=clock, sleep=clock.sleep).take(tmp_path)


def test_a_holder_that_was_stopped_writes_nothing_more(
  tmp_path, held, clock, monkeypatch
):
  elsewhere(monkeypatch)
  Lease(SECONDS, clock=clock, sleep=clock.sleep).take(tmp_path)
  beat = open_place(tmp_path).read("beats/000001")
  held.check()  # It does not know yet, and the next line tells it.
  held._beat()
  with pytest.raises(LeaseLostError, match="has taken over"):
    held.check()
  with pytest.raises(LeaseLostError):
    held.verify()
  held.release()
  assert open_place(tmp_path).read("beats/000001") == beat


def test_a_holder_that_continues_in_that_instant_notices_it(
  tmp_path, held, clock, monkeypatch
):
  """The taker has not created its lease when the late holder looks for it."""
  elsewhere(monkeypatch)
  taker = Lease(SECONDS, clock=clock, sleep=clock.sleep)
  wait = taker._wait_for_end

  def and_then_it_continues(number):
    wait(number)
    held._beat()

  taker._wait_for_end = and_then_it_continues
  taker.take(tmp_path)
  held.check()
  for _ in range(lease._BEATS_PER_LISTING):
    clock.sleep(1.0)
    held._beat()
  with pytest.raises(LeaseLostError):
    held.check()
  taker.verify()


def test_verify_asks_the_bucket(tmp_path, held, clock, monkeypatch):
  held.verify()
  elsewhere(monkeypatch)
  Lease(SECONDS, clock=clock, sleep=clock.sleep).take(tmp_path)
  with pytest.raises(LeaseLostError):
    held.verify()


def test_a_released_folder_is_taken_at_once(tmp_path, held, clock):
  held.release()
  began = clock.now
  taker = Lease(SECONDS, clock=clock, sleep=clock.sleep)
  taker.take(tmp_path)
  assert (clock.now, taker.number) == (began, 2)


def test_beats_that_fail_are_made_up_for(tmp_path, held, clock, monkeypatch):
  def refuse(*_):
    raise OSError("no network")

  with monkeypatch.context() as broken:
    broken.setattr(held._place, "write", refuse)
    for _ in range(5):
      clock.sleep(SECONDS)
      with pytest.raises(OSError, match="no network"):
        held._beat()
  clock.sleep(SECONDS)
  held._beat()
  held.check()


def test_a_killed_process_of_this_machine_is_replaced_at_once(tmp_path, clock):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  taker = Lease(SECONDS, clock=clock, sleep=clock.sleep)
  taker.take(tmp_path)
  assert (clock.now, taker.number) == (1000.0, 2)
  taker.release()


def test_one_of_many_wins_a_race(tmp_path):
  assert winners_of_races(tmp_path, races=5, rivals=8) == [1] * 5


def winners_of_races(folder, races, rivals):
  """Returns the number of winners of each race for a folder."""
  won = []
  with concurrent.futures.ThreadPoolExecutor(rivals) as pool:
    for _ in range(races):
      start = threading.Barrier(rivals)
      leases = [Lease(SECONDS / 10) for _ in range(rivals)]
      outcomes = [pool.submit(_try, each, folder, start) for each in leases]
      winners = [each for each in outcomes if each.result() == ""]
      for outcome in outcomes:
        assert outcome.result() == "" or "in use by" in outcome.result()
      for each in leases:
        each.release()
      won.append(len(winners))
  return won


def _try(one, folder, start):
  start.wait()
  try:
    one.take(folder)
  except SpecError as error:
    return str(error)
  return ""
