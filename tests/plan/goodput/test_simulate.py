"""Tests of the simulation against closed forms and by hand."""

import dataclasses
import math

import pytest

from bigscale.plan.goodput import simulate as simulation
from bigscale.plan.goodput.policy import expected_goodput
from bigscale.plan.goodput.simulate import CATEGORIES, simulate
from bigscale.plan.goodput.system import Fault, Stragglers, System, Tier
from bigscale.spec import SpecError


def one_tier(interval=600.0, blocking=10.0, mean=20_000.0, **changes):
  fault = Fault(name="any", rate=1 / mean, detect=40.0, replace=50.0)
  tier = Tier(name="store", interval=interval, blocking=blocking, restore=60.0)
  settings = dict(faults=(fault,), tiers=(tier,), start=30.0, compile=20.0)
  return System(**settings | changes)


@pytest.mark.parametrize(
  ("interval", "blocking", "mean"),
  [(600, 10, 20_000), (3000, 100, 5000), (100, 5, 1000)],
)
def test_equals_dalys_expected_time(interval, blocking, mean):
  """Up to its random error: about 2% of the share that is not work."""
  found = simulate(one_tier(interval, blocking, mean), faults=1500)
  want = expected_goodput(interval, blocking, restart=200, between_faults=mean)
  assert found.goodput == pytest.approx(want, abs=0.06 * (1 - want))


def test_a_run_without_faults():
  system = one_tier(faults=(), evaluation_interval=1000.0, evaluation=7.0)
  found = simulate(system, work=6000.0)
  expected = dict.fromkeys(CATEGORIES, 0.0) | {
    "step": 6000.0,
    "start": 30.0,
    "compile": 20.0,
    "checkpoint": 10 * 10.0,
    "evaluate": 6 * 7.0,
  }
  assert found.seconds == pytest.approx(expected)
  assert found.total == pytest.approx(sum(expected.values()))


def two_tiers(**changes):
  return System(
    faults=(
      Fault(name="process", rate=1.0, detect=1.0, replace=2.0),
      Fault(name="host", rate=1.0, detect=10.0, replace=20.0),
      Fault(name="preempted", rate=1.0, replace=100.0, warned=True),
    ),
    tiers=(
      Tier(
        name="local",
        interval=10.0,
        blocking=1.0,
        restore=3.0,
        lost_by=frozenset({"host", "preempted"}),
      ),
      Tier(name="store", interval=50.0, blocking=2.0, write=30.0, restore=9.0),
    ),
    **changes,
  )


def test_a_process_restarts_from_the_local_checkpoint():
  # Work 0-10, save 10-11, work 11-21, save 21-22, work 22-25: 5 - 2 lost.
  found = simulate(two_tiers(), work=30.0, times={"process": [25.0]})
  assert found.faults == {"process": 1, "host": 0, "preempted": 0}
  assert found.seconds["redone"] == pytest.approx(3.0)
  assert found.seconds["down"] == pytest.approx(3.0)
  assert found.seconds["restore"] == pytest.approx(3.0)
  assert found.seconds["step"] == pytest.approx(30.0)
  assert found.seconds["checkpoint"] == pytest.approx(3.0)


def test_a_lost_host_restarts_from_the_store():
  # The save at work 50 ends at time 57 and is complete at 87. At 90, the work
  # is 81, of which 31 are lost.
  found = simulate(two_tiers(), work=100.0, times={"host": [90.0]})
  assert found.seconds["redone"] == pytest.approx(30.0)
  assert found.seconds["restore"] == pytest.approx(9.0)


def test_an_incomplete_checkpoint_is_lost():
  found = simulate(two_tiers(), work=100.0, times={"host": [86.9]})
  assert found.seconds["redone"] > 70
  assert found.seconds["restore"] == 0.0


def test_a_warned_run_loses_no_work():
  found = simulate(two_tiers(), work=30.0, times={"preempted": [25.0]})
  assert found.seconds["redone"] == 0.0
  assert found.seconds["down"] == pytest.approx(100.0)
  assert found.seconds["restore"] == pytest.approx(9.0)
  # Saves at work 10, 20 and 30, and the last one in the store.
  assert found.seconds["checkpoint"] == pytest.approx(3.0 + 32.0)


def test_a_fault_during_a_restart_begins_it_again():
  found = simulate(two_tiers(), work=30.0, times={"process": [25.0, 27.0]})
  assert found.faults["process"] == 2
  assert found.seconds["down"] == pytest.approx(2.0 + 3.0)
  assert found.seconds["redone"] == pytest.approx(3.0)


def test_a_save_waits_for_the_one_before_it():
  tier = Tier(name="store", interval=10.0, blocking=1.0, write=16.0)
  found = simulate(System(tiers=(tier,)), work=30.0)
  # The second save and the third wait 6 s each.
  assert found.seconds["checkpoint"] == pytest.approx(3 * 1.0 + 6.0 + 6.0)


def test_stragglers_slow_all_hosts(monkeypatch):
  class Once:
    def __init__(self, seed):
      self._gaps = iter([100.0])

    def expovariate(self, rate):
      return next(self._gaps, math.inf)

  monkeypatch.setattr("random.Random", Once)
  slow = Stragglers(rate=1.0, slowdown=2.0, duration=50.0)
  found = simulate(System(stragglers=slow), work=1000.0)
  assert found.seconds["slow"] == pytest.approx(25.0)
  assert found.seconds["step"] == pytest.approx(1000.0)


def test_systems_meet_the_same_faults():
  found = [
    simulate(one_tier(interval=interval), seed=3, faults=50)
    for interval in (300.0, 900.0)
  ]
  # The last fault ends both simulations at the same time.
  assert found[0].total == pytest.approx(found[1].total)
  assert simulate(one_tier(), seed=4, faults=50).total != found[0].total


def test_impossible_values_are_refused():
  with pytest.raises(SpecError, match="rate=-1"):
    Fault(name="any", rate=-1)
  with pytest.raises(SpecError, match="interval=0"):
    Tier(name="store", interval=0)
  with pytest.raises(SpecError, match=r"slowdown=0\.5"):
    Stragglers(slowdown=0.5)
  with pytest.raises(ValueError, match="never ends"):
    simulate(System())
  with pytest.raises(ValueError, match="never ends"):
    simulate(System(faults=(Fault(name="any", rate=0.0),)))


@pytest.mark.parametrize("write", [0.0, 7.0, 9.9])
def test_skipped_intervals_change_nothing(monkeypatch, write):
  faults = (
    Fault(name="process", rate=1 / 300, detect=1.0, replace=2.0),
    Fault(name="host", rate=1 / 900, detect=10.0),
  )
  local, store = two_tiers().tiers
  tiers = (dataclasses.replace(local, write=write), store)
  system = System(
    faults=faults,
    tiers=tiers,
    evaluation_interval=35.0,
    evaluation=3.0,
  )
  skipping = simulate(system, faults=300)
  monkeypatch.setattr(simulation._Run, "_skip", lambda self, limit: None)
  single = simulate(system, faults=300)
  assert skipping.seconds == pytest.approx(single.seconds)
  assert skipping.faults == single.faults
