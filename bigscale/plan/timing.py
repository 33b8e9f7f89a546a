"""Computes the time of a step and its breakdown."""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from bigscale.plan.categories import CATEGORIES
from bigscale.plan.collectives import Collective
from bigscale.plan.cost import Interconnect
from bigscale.plan.measure import Work

_MAX_LISTED = 10
# Parts of an op_name that carry no information about the step.
_NOISE = re.compile(
  r"^jit\([^/]*\)/|\b(while/body|closed_call|shard_map|eval_jaxpr)/"
)


@dataclasses.dataclass(frozen=True)
class Timed:
  """A collective and its seconds in a step, over all its occurrences.

  Attributes:
    collective: the collective.
    seconds: seconds without overlap.
    exposed: seconds that do not overlap with other work; for a synchronous
      collective, all of them.
  """

  collective: Collective
  seconds: float
  exposed: float

  @property
  def name(self) -> str:
    """Kind of the collective, and whether it is between slices."""
    between = " between slices" if self.collective.between_slices else ""
    return self.collective.kind + between


def times(work: Work, network: Interconnect, flops: float) -> dict[str, Any]:
  """Returns the entries of a plan about time; see `report`.

  Args:
    work: work of a step.
    network: cost model of the links.
    flops: FLOP of a step on one device.
  """
  chip = network.topology.chip
  timed = [_time(one, network) for one in work.collectives]
  apart = {
    "sync": sum(one.seconds for one in timed if _is_synchronous(one)),
    "async": sum(one.seconds for one in timed if not _is_synchronous(one)),
    "exposed": sum(one.exposed for one in timed if not _is_synchronous(one)),
  }
  cycles_seconds = work.total_cycles / chip.clock_hz
  communication = apart["sync"] + apart["exposed"]
  total = cycles_seconds + communication
  seconds = dict.fromkeys(CATEGORIES, 0.0)
  phases = collections.Counter()
  for (phase, category), cycles in work.cycles.items():
    seconds[category] += cycles / chip.clock_hz
    phases[phase] += cycles / chip.clock_hz
  parts = {**seconds, "communication": communication}
  return {
    "flops_per_step_per_device": flops,
    "estimated_step_seconds": total,
    "estimated_mfu": flops / (total * chip.peak_flops) if total else None,
    "cycles": work.total_cycles,
    "cycles_seconds": cycles_seconds,
    "collective_seconds": apart,
    "collectives": _by_kind(timed),
    "longest_collectives": _longest(timed),
    "categories": seconds,
    "phases": dict(phases),
    "breakdown": {
      name: part / total if total else 0.0 for name, part in parts.items()
    },
  }


def _time(one: Collective, network: Interconnect) -> Timed:
  each = network.seconds(one)
  exposed = each
  if one.asynchronous:
    hidden = one.hidden_cycles / network.topology.chip.clock_hz
    exposed = max(0.0, each - hidden)
  return Timed(one, one.count * each, one.count * exposed)


def _is_synchronous(timed: Timed) -> bool:
  return not timed.collective.asynchronous


def _by_kind(timed: Sequence[Timed]) -> dict[str, dict[str, float]]:
  kinds: dict[str, collections.Counter] = {}
  for one in timed:
    count = one.collective.count
    kinds.setdefault(one.name, collections.Counter()).update(
      count=count,
      bytes=count * one.collective.bytes,
      asynchronous=count * one.collective.asynchronous,
      seconds=one.seconds,
    )
  return {name: dict(kinds[name]) for name in sorted(kinds)}


def _longest(timed: Sequence[Timed]) -> list[dict[str, Any]]:
  """Returns the longest collectives; equal ones of one scope are summed."""
  totals: dict[tuple, collections.Counter] = {}
  for one in timed:
    collective = one.collective
    size = len(collective.groups[0]) if collective.groups else 0
    where = _NOISE.sub("", collective.op_name)
    key = (
      one.name,
      collective.dtype,
      size,
      collective.asynchronous,
      where,
    )
    totals.setdefault(key, collections.Counter()).update(
      count=collective.count,
      bytes=collective.count * collective.bytes,
      seconds=one.seconds,
    )
  names = ("kind", "dtype", "group_size", "asynchronous", "where")
  found = [
    dict(zip(names, key, strict=True)) | sums for key, sums in totals.items()
  ]
  return sorted(found, key=lambda one: -one["seconds"])[:_MAX_LISTED]
