"""Tests of the intervals of checkpoints."""

import math

import pytest
from scipy.optimize import minimize_scalar

from bigscale.plan.goodput import policy
from bigscale.plan.goodput.simulate import simulate
from bigscale.plan.goodput.system import Fault, System, Tier


@pytest.mark.parametrize(("save", "mean"), [(10, 20_000), (100, 500), (1, 1e6)])
def test_optimum_minimizes_dalys_expected_time(save, mean):
  found = minimize_scalar(
    lambda interval: -policy.expected_goodput(interval, save, 0, mean),
    bounds=(1e-3, 100 * mean),
    options={"xatol": 1e-6 * mean},
    method="bounded",
  )
  assert policy.optimum(save, mean) == pytest.approx(found.x, rel=2e-3)


def test_young_is_the_optimum_of_cheap_saves():
  assert policy.young(5, 40_000) == pytest.approx(632.5, abs=0.1)
  assert policy.optimum(5, 4e6) == pytest.approx(policy.young(5, 4e6), rel=1e-3)
  assert policy.optimum(5, math.inf) == math.inf


def system(write=0.0):
  return System(
    faults=(
      Fault(name="process", rate=3e-4, detect=10.0),
      Fault(name="host", rate=1e-5, replace=100.0),
      Fault(name="preempted", rate=1.0e-5, warned=True),
    ),
    tiers=(
      Tier(
        name="local",
        interval=math.inf,
        blocking=1.0,
        lost_by=frozenset({"host"}),
      ),
      Tier(name="store", interval=math.inf, blocking=30.0, write=write),
    ),
  )


def test_each_tier_serves_its_faults():
  """A warned run saves by itself, so it needs no intervals."""
  local, store = policy.intervals(system())
  assert local == pytest.approx(policy.optimum(1.0, 1 / 3e-4))
  assert store == pytest.approx(policy.optimum(30.0, 1e5))
  assert policy.intervals(system(write=5000.0))[1] == 5000.0


def test_a_tier_without_faults_never_saves():
  one = System(
    faults=(Fault(name="process", rate=1e-3),),
    tiers=(
      Tier(name="local", interval=1.0, blocking=1.0),
      Tier(name="store", interval=1.0, blocking=30.0),
    ),
  )
  assert policy.intervals(one)[1] == math.inf


def test_best_is_no_worse_than_the_policy():
  given = system()
  chosen, outcome = policy.best(given, faults=200)
  started = simulate(given.with_intervals(*policy.intervals(given)), faults=200)
  assert outcome.goodput >= started.goodput
  assert outcome == simulate(chosen, faults=200)
  assert outcome.goodput < started.goodput + 0.01
