"""Forecasts the goodput of a planned run on machines of several sizes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.plan.goodput import policy
from bigscale.plan.goodput.costs import Costs, costs_of, system
from bigscale.plan.goodput.simulate import Outcome, simulate
from bigscale.plan.goodput.system import System
from bigscale.plan.topology import parse
from bigscale.spec import RunSpec

# Sizes in addition to that of the plan. Their steps take as long as the plan's.
LARGER = (256, 1024, 4096)
_FAULTS = 400
_NAMES = {
  "redone": "steps done again",
  "slow": "slow hosts",
  "checkpoint": "saves",
  "evaluate": "evaluation",
  "down": "detection and replacement",
  "start": "start of the processes",
  "restore": "restore",
  "compile": "compilation",
}
_HEAD = (
  "chips",
  "fault every",
  "as configured",
  "Young/Daly",
  "best",
  "with local copies",
  "largest losses",
)


def forecast(
  plan: Mapping[str, Any],
  spec: RunSpec,
  given: Mapping[str, float],
  larger: Sequence[int] = LARGER,
) -> dict[str, Any]:
  """Returns the forecast of a plan, as JSON values.

  Args:
    plan: plan of the run.
    spec: spec of the run.
    given: constants that the user assumes; see `Costs`.
    larger: sizes in chips to forecast as well if they are larger than the plan.

  Returns:
    `costs`, and `machines`: for each number of chips, `seconds_between_faults`
    and the outcomes `configured`, `young_daly`, `best` and `local`, which have
    `goodput`, `intervals` in seconds by tier, and `shares` of the time.

  Raises:
    SpecError: see `costs_of`.
  """
  costs = costs_of(plan, spec, given)
  topology = parse(plan["topology"])
  chips = topology.slices * math.prod(topology.shape)
  sizes = [chips, *(size for size in larger if size > chips)]
  return {
    "costs": dataclasses.asdict(costs),
    "machines": [_machine(costs, size, plan["topology"]) for size in sizes],
  }


def _machine(costs: Costs, chips: int, topology: str) -> dict[str, Any]:
  """Returns the forecast for a number of chips."""
  store = system(costs, chips, topology, local=False)
  local = system(costs, chips, topology, local=True)
  young = _by_policy(store)
  local = _by_policy(local)
  rate = store.fault_rate
  return {
    "chips": chips,
    "seconds_between_faults": 1 / rate if rate else None,
    "configured": _outcome(store, _simulate(store)),
    "young_daly": _outcome(young, _simulate(young)),
    "best": _outcome(*policy.best(store, faults=_FAULTS)),
    "local": _outcome(local, _simulate(local)),
  }


def _by_policy(one: System) -> System:
  return one.with_intervals(*policy.intervals(one))


def _simulate(one: System) -> Outcome:
  return simulate(one, faults=_FAULTS)


def _outcome(one: System, outcome: Outcome) -> dict[str, Any]:
  return {
    "goodput": outcome.goodput,
    "intervals": {
      tier.name: tier.interval if math.isfinite(tier.interval) else None
      for tier in one.tiers
    },
    "shares": outcome.shares,
  }


def text(found: Mapping[str, Any], spec: RunSpec) -> str:
  """Returns a forecast as text.

  Args:
    found: a forecast.
    spec: spec of the run.
  """
  rows = [_HEAD, *map(_row, found["machines"])]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "  ".join(
      f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  ]
  here, costs = found["machines"][0], found["costs"]
  wanted = here["young_daly"]["intervals"]["store"]
  lines += ["", *_advice(wanted, costs, spec)]
  changed = ", ".join(f"{k} {v:.4g}" for k, v in costs.items())
  return "\n".join(["goodput:", *lines, "", f"assumed: {changed}"])


def _advice(
  wanted: float | None, costs: Mapping[str, float], spec: RunSpec
) -> list[str]:
  if wanted is None:
    return []
  kimg = wanted / costs["step_seconds"] * spec.images_per_step / 1000
  return [
    f"The Young/Daly interval of this plan is {_duration(wanted)}: "
    f"--config.checkpoint.kimg={kimg:.3g} (now {spec.checkpoint.kimg:g}, "
    f"every {_duration(costs['checkpoint_seconds'])})."
  ]


def _row(machine: Mapping[str, Any]) -> tuple[str, ...]:
  between = machine["seconds_between_faults"]
  losses = {
    name: share
    for name, share in machine["best"]["shares"].items()
    if name != "step" and share >= 0.0005
  }
  largest = sorted(losses, key=lambda name: -losses[name])[:3]
  return (
    f"{machine['chips']:,}",
    _duration(between) if between else "never",
    _cell(machine["configured"]),
    _cell(machine["young_daly"]),
    _cell(machine["best"]),
    _cell(machine["local"]),
    ", ".join(f"{_NAMES[name]} {losses[name]:.1%}" for name in largest),
  )


def _cell(outcome: Mapping[str, Any]) -> str:
  """Returns the goodput and the intervals of the tiers."""
  intervals = " + ".join(
    _duration(seconds)
    for seconds in outcome["intervals"].values()
    if seconds is not None
  )
  return f"{outcome['goodput']:.1%} ({intervals or 'none'})"


def _duration(seconds: float) -> str:
  for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
    if seconds >= size:
      return f"{seconds / size:.3g} {unit}"
  return f"{seconds:.3g} s"
