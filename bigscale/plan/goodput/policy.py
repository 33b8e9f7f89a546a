"""Chooses the intervals of checkpoints from the costs of saves and faults.

A save costs C seconds of training, and a fault strikes every M seconds on
average. Short intervals cost saves, and long intervals cost repeated steps.

Young 1974, "A first order approximation to the optimum checkpoint interval":
sqrt(2 C M). Daly 2006, "A higher order estimate of the optimum checkpoint
interval for restart dumps", gives the expected time of a run whose saves stop
the training:

    T = M e^(R / M) (e^((tau + C) / M) - 1) W / tau

with the work W, the interval tau and the time R of a restart. `optimum` is its
exact minimum over tau, and `expected_goodput` is W / T.
"""

import dataclasses
import math
from collections.abc import Sequence

from scipy.special import lambertw

from bigscale.plan.goodput.simulate import Outcome, simulate
from bigscale.plan.goodput.system import System, Tier

# Factors of the interval that `best` tries.
_FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)


def young(save: float, between_faults: float) -> float:
  """Returns Young's interval in seconds.

  Args:
    save: seconds for which a save stops the training.
    between_faults: mean seconds between two faults.
  """
  return math.sqrt(2 * save * between_faults)


def optimum(save: float, between_faults: float) -> float:
  """Returns the interval that minimizes Daly's expected time, in seconds.

  The derivative of T is zero where (x - 1) e^x = -e^(-C / M) with x = tau / M.
  Lambert's W function solves this.

  Args:
    save: seconds for which a save stops the training.
    between_faults: mean seconds between two faults.
  """
  if not math.isfinite(between_faults):
    return math.inf
  argument = -math.exp(-1 - save / between_faults)
  return between_faults * (1 + float(lambertw(argument).real))


def expected_goodput(
  interval: float, save: float, restart: float, between_faults: float
) -> float:
  """Returns the expected share of the time that is work, by Daly's formula.

  Args:
    interval: work between two saves, in seconds.
    save: seconds for which a save stops the training.
    restart: seconds from a fault to the next step.
    between_faults: mean seconds between two faults.
  """
  faults = between_faults
  segment = faults * math.expm1((interval + save) / faults)
  return interval / (math.exp(restart / faults) * segment)


def intervals(system: System) -> list[float]:
  """Returns the interval of each tier by its cost and the faults it serves.

  A tier serves the faults that it survives and that no tier with cheaper saves
  survives. A tier that serves no fault never saves.

  A checkpoint that is not complete when a fault strikes is lost, which costs
  its time to write once a fault. This does not depend on the interval.
  """
  found = []
  for tier in system.tiers:
    served = [
      fault.rate
      for fault in system.faults
      if not fault.warned and _serving(system.tiers, fault.name) == tier
    ]
    rate = sum(served)
    # A save cannot begin before the one before it is complete.
    shortest = max(tier.write, 1e-3)
    chosen = optimum(tier.blocking, 1 / rate) if rate else math.inf
    found.append(max(chosen, shortest))
  return found


def _serving(tiers: Sequence[Tier], fault: str) -> Tier | None:
  """Returns the tier with the cheapest saves that survives a fault."""
  intact = [tier for tier in tiers if fault not in tier.lost_by]
  return min(intact, key=lambda tier: tier.blocking, default=None)


def best(
  system: System, seed: int = 0, faults: int = 500
) -> tuple[System, Outcome]:
  """Searches the intervals with the highest simulated goodput.

  The search begins with `intervals` and changes one tier at a time. All
  candidates meet the same faults.

  Args:
    system: the system; its intervals are ignored.
    seed: seed of the simulation.
    faults: number of faults of each simulation.
  """
  chosen = system.with_intervals(*intervals(system))
  outcome = simulate(chosen, seed=seed, faults=faults)
  for at, tier in enumerate(chosen.tiers):
    if not math.isfinite(tier.interval):
      continue
    for factor in _FACTORS:
      tiers = list(chosen.tiers)
      tiers[at] = dataclasses.replace(tier, interval=tier.interval * factor)
      candidate = dataclasses.replace(chosen, tiers=tuple(tiers))
      found = simulate(candidate, seed=seed, faults=faults)
      if found.goodput > outcome.goodput:
        chosen, outcome = candidate, found
  return chosen, outcome
