"""Suggests changes to a run, based on the numbers of its plan.

The memory of a variant is a proportional estimate. The state scales with the
inverse number of devices that share it, and the rest with the number of samples
that a device computes at a time. The sentences mark such estimates; only a plan
of the variant gives the exact memory.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bigscale.plan.topology import CHIPS, GIB, Topology
from bigscale.spec import RunSpec

# Share of memory that an estimate may use; the rest is a safety margin.
_USABLE = 0.9
# Share of the step's time from which a category is mentioned.
_NOTEWORTHY = {"spectral_norm": 0.1, "optimizer": 0.06, "orthogonal": 0.1}
_NAMES = {
  "spectral_norm": "spectral norm",
  "optimizer": "Adam and the moving average",
  "orthogonal": "the orthogonal term",
}


class Needs(NamedTuple):
  """Bytes that a device needs, split into parts that scale differently.

  Attributes:
    state: bytes of the state.
    rest: bytes of everything else.
    limit: bytes that a device has.
  """

  state: float
  rest: float
  limit: int

  def fit(self, *, state: float = 1.0, rest: float = 1.0) -> bool:
    """Returns whether the scaled parts fit within the usable memory."""
    return state * self.state + rest * self.rest <= _USABLE * self.limit


def advise(
  plan: Mapping[str, Any], spec: RunSpec, topology: Topology
) -> list[str]:
  """Returns advice in sentences, the most useful first.

  Args:
    plan: plan with memory, and with times if it fits.
    spec: spec of the run.
    topology: topology of the plan.
  """
  state = plan["memory"]["state"]
  needs = Needs(
    state,
    max(0, plan["hbm_bytes_per_device"] - state),
    plan["hbm_limit_bytes"],
  )
  if plan["fits"]:
    return [
      *_about_time(plan, spec, topology),
      *_less_hardware(plan, spec, topology, needs),
    ]
  return _to_fit(plan, spec, topology, needs)


def _to_fit(
  plan: Mapping[str, Any], spec: RunSpec, topology: Topology, needs: Needs
) -> list[str]:
  short = plan["hbm_bytes_per_device"] - plan["hbm_limit_bytes"]
  found = [
    f"the run does not fit: each device needs "
    f"{_gib(plan['hbm_bytes_per_device'])} but has "
    f"{_gib(plan['hbm_limit_bytes'])}, {_gib(short)} too little"
  ]
  here = spec.global_batch_size // plan["devices"]
  if not _is_split(spec):
    ways = _powers(topology.devices_per_slice)
    enough = [n for n in ways if needs.fit(state=1 / n)]
    found += [
      f"mesh.weights='zero' with mesh.fsdp={n} would split the "
      f"{_gib(needs.state)} of state and fit (proportional estimate)"
      for n in enough[:1]
    ]
  parts = spec.microbatches_on(plan["devices"])
  more = [n for n in _powers(here // parts) if needs.fit(rest=1 / n)]
  found += [
    f"optim.microbatches={parts * n} would fit (proportional estimate)"
    for n in more[:1]
  ]
  for larger in _slices(spec, topology):
    ratio = plan["devices"] / larger.device_count
    if ratio < 1 and needs.fit(rest=ratio):
      found.append(f"{larger.name} would fit (proportional estimate)")
      break
  roomier = [
    chip.family
    for chip in CHIPS.values()
    if plan["hbm_bytes_per_device"] <= _USABLE * chip.hbm_bytes
  ]
  if roomier:
    found.append(
      f"the same number of {' or '.join(roomier)} devices has enough memory"
    )
  if len(found) == 1:
    found.append(
      "no single change is enough: split the state and use more microbatches"
    )
  if spec.optim.d_steps > 1 and spec.optim.fakes_at_once:
    found.append(
      "optim.fakes_at_once=False generates the fakes of each D update "
      f"separately, in passes of {here // parts} images per device instead of "
      f"{spec.optim.d_steps * here // parts}; plan it to see whether that pass "
      "is the memory peak"
    )
  return found


def _about_time(
  plan: Mapping[str, Any], spec: RunSpec, topology: Topology
) -> Iterator[str]:
  shares = plan["breakdown"]
  first = max(shares, key=shares.get)
  yield (
    f"{_NAMES.get(first, first)} takes the largest share, "
    f"{shares[first]:.0%} of the step"
  )
  for name, threshold in _NOTEWORTHY.items():
    if shares[name] >= threshold and not _is_split(spec):
      split = min(16, topology.devices_per_slice)
      yield (
        f"{_NAMES[name]} takes {shares[name]:.0%} and is repeated on every "
        f"device; mesh.weights='zero' with mesh.fsdp={split} would split it"
      )
  if shares["communication"] >= 0.2:
    yield from _about_communication(plan, spec)
  if shares["relayout"] >= 0.3 and plan["effort"] == "O1":
    yield (
      "much of the relayout comes from effort O1; plan at default effort "
      "before tuning"
    )
  here = spec.global_batch_size // plan["devices"]
  if here < 8 and (plan["estimated_mfu"] or 0) < 0.2:
    yield (
      f"there are only {here} images per device; a smaller slice or a larger "
      "batch would use the chips better"
    )


def _about_communication(
  plan: Mapping[str, Any], spec: RunSpec
) -> Iterator[str]:
  kinds = plan["collectives"]
  kind = max(kinds, key=lambda name: kinds[name]["seconds"])
  worst = kinds[kind]
  mean = worst["bytes"] / worst["count"]
  yield (
    f"communication takes {plan['breakdown']['communication']:.0%} of the "
    f"step, most of it in {worst['count']} x {kind} of {mean / 1e6:.3g} MB"
  )
  whole = spec.model.has("batch_norm_group_size") and not (
    spec.model.batch_norm_group_size
  )
  if kind == "all-reduce" and mean < 1e6 and whole:
    yield (
      "many small all-reduces are limited by latency; batch norm over groups "
      "(model.batch_norm_group_size) reduces over fewer devices, or none"
    )


def _less_hardware(
  plan: Mapping[str, Any], spec: RunSpec, topology: Topology, needs: Needs
) -> Iterator[str]:
  parts = spec.optim.microbatches
  if parts > 1 and needs.fit(rest=parts):
    yield (
      "optim.microbatches=1 would fit (proportional estimate) and be faster"
    )
  for smaller in _slices(spec, topology):
    ratio = plan["devices"] / smaller.device_count
    if ratio > 1 and needs.fit(rest=ratio):
      yield (
        f"{smaller.name} is the smallest slice that would fit (proportional "
        f"estimate), at about {ratio:g} times the step time"
      )
      break


def _slices(spec: RunSpec, topology: Topology) -> Iterator[Topology]:
  """Yields slices of the same chips that divide the batch, smallest first."""
  for shape in topology.chip.slices:
    candidate = Topology(topology.chip, shape)
    count = candidate.device_count
    unit = count * spec.optim.microbatches
    if spec.global_batch_size % unit == 0 and count % spec.mesh.fsdp == 0:
      yield candidate


def _is_split(spec: RunSpec) -> bool:
  return spec.mesh.weights != "replicated" and spec.mesh.fsdp > 1


def _powers(limit: int) -> list[int]:
  """Returns the powers of two from 2 that divide `limit`."""
  return [
    2**n
    for n in range(1, int(math.log2(max(limit, 1))) + 1)
    if not limit % 2**n
  ]


def _gib(size: float) -> str:
  return f"{size / GIB:.2f} GiB"
