"""Adds up a compiled program: cycles, operations, communication.

Loop bodies count as often as they run (`loops`), a branch at its costliest.
Cycles are the TPU compiler's own `estimated_cycles` of each scheduled
instruction. It gives none for some: collectives, which `cost` models; copies
between HBM and VMEM that run beside other work; and a few others, which are
listed in `uncosted` by opcode where their results are large.
"""

import collections
import dataclasses
from collections.abc import Mapping

from bigscale.plan import categories, precision
from bigscale.plan.collectives import KINDS, Collective, collectives
from bigscale.plan.hlo import (
  Computation,
  Instruction,
  Module,
  size_in_bytes,
)
from bigscale.plan.hlo_flops import flops
from bigscale.plan.loops import Frame, trip_count

# They name values, or wait for what is counted where it starts.
_FREE = frozenset(
  (
    "add-dependency",
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "optimization-barrier",
    "opt-barrier",
    "parameter",
    "partition-id",
    "recv",
    "replica-id",
    "send",
    "tuple",
    "while",
  )
)
_TRANSFERS = ("-start", "-done", "-update")
_LARGE_BYTES = 2**16
# They give memory a name; the copies around them do the work.
_NAMING = ("AllocateBuffer", "ConcatBitcast")


@dataclasses.dataclass
class Work:
  """What a computation does in one run.

  Attributes:
    cycles: by (phase, category) of `categories`.
    collectives: each with how often it happens.
    flops: of convolutions and matrix products.
    flops_once: the same with every loop body taken once.
    float32: those of them with a float32 operand, each with how often it runs.
    uncosted: instructions without an estimate, by opcode.
    warnings: what had to be assumed.
  """

  cycles: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  collectives: list[Collective] = dataclasses.field(default_factory=list)
  flops: int = 0
  flops_once: int = 0
  float32: list[precision.StatedProduct] = dataclasses.field(
    default_factory=list
  )
  uncosted: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  warnings: list[str] = dataclasses.field(default_factory=list)

  @property
  def total_cycles(self) -> float:
    """Of all phases and categories."""
    return sum(self.cycles.values())

  def add(self, other: "Work", times: int = 1) -> None:
    """Includes other work, done so many times."""
    for key, cycles in other.cycles.items():
      self.cycles[key] += times * cycles
    for opcode, count in other.uncosted.items():
      self.uncosted[opcode] += times * count
    for mine, theirs in (
      (self.collectives, other.collectives),
      (self.float32, other.float32),
    ):
      mine += [
        dataclasses.replace(one, count=times * one.count)
        for one in theirs
        if times
      ]
    self.flops += times * other.flops
    self.flops_once += other.flops_once
    self.warnings += [one for one in other.warnings if one not in self.warnings]


def measure(
  module: Module, devices: int, hints: Mapping[str, int] | None = None
) -> Work:
  """Measures a program.

  Args:
    module: of the program.
    devices: its partitions.
    hints: trip counts by scope, for loops that do not tell; see `loops`.
  """
  meter = _Meter(module, devices, hints or {})
  return meter.computation(Frame(module, module.entry))


class _Meter:
  """One pass over a program."""

  def __init__(
    self, module: Module, devices: int, hints: Mapping[str, int]
  ) -> None:
    self._module = module
    self._devices = devices
    self._hints = hints

  def computation(self, frame: Frame) -> Work:
    """All that a computation does."""
    work, cycles = Work(), []
    for one in frame.computation.instructions:
      nested = self._nested(frame, one)
      cycles.append(nested.total_cycles + (one.cycles or 0))
      work.add(nested)
      self._count(work, frame.computation, one)
    work.collectives += collectives(
      self._module, frame.computation, cycles, self._devices
    )
    return work

  def _count(
    self, work: Work, computation: Computation, one: Instruction
  ) -> None:
    """Includes an instruction itself."""
    if one.cycles is not None:
      key = (
        categories.phase(one),
        categories.category(self._module, one),
      )
      work.cycles[key] += one.cycles
    elif _deserves_estimate(one):
      work.uncosted[one.opcode] += 1
    multiplied = self._multiplied(computation, one)
    for where, inner in multiplied:
      share = (one.cycles or 0) / len(multiplied)
      product = precision.product(where, inner, share)
      work.float32 += [product] if product else []
      operations = flops(where, inner)
      work.flops += operations
      work.flops_once += operations

  def _multiplied(
    self, computation: Computation, one: Instruction
  ) -> list[tuple[Computation, Instruction]]:
    """Convolutions of an instruction and of what is fused into it."""
    if one.opcode in categories.MXU:
      return [(computation, one)]
    if one.opcode != "fusion":
      return []
    called = self._module.called(one)
    return [
      pair
      for inner in called.instructions
      for pair in self._multiplied(called, inner)
    ]

  def _nested(self, frame: Frame, one: Instruction) -> Work:
    """What a loop, a branch or a call does."""
    work = Work()
    if one.opcode == "while":
      work.add(self.computation(frame.body(one)), self._trips(frame, one, work))
    elif one.opcode == "conditional":
      branches = [
        self.computation(Frame(self._module, self._module.computations[name]))
        for name in one.branches
      ]
      work.add(max(branches, key=lambda branch: branch.total_cycles))
      work.warnings.append(
        f"{one.op_name or one.name}: one of {len(branches)} branches runs; the "
        "costliest is counted"
      )
    elif one.opcode in ("call", "async-start"):
      called = self._module.called(one)
      if called is not None:
        inner = self.computation(Frame(self._module, called))
        if one.opcode == "async-start":
          # Counted where it starts, with what hides it.
          inner.collectives.clear()
        work.add(inner)
    return work

  def _trips(self, frame: Frame, loop: Instruction, work: Work) -> int:
    trips = trip_count(frame, loop, self._hints)
    if trips is None:
      work.warnings.append(
        f"{loop.op_name or loop.name}: the program does not tell how often "
        "this loop runs; its body is counted once"
      )
      return 1
    return trips


def _deserves_estimate(one: Instruction) -> bool:
  return not (
    one.opcode in _FREE
    or one.opcode.endswith(_TRANSFERS)
    or one.attribute("custom_call_target") in _NAMING
    or one.opcode.removesuffix("-start") in KINDS
    or size_in_bytes(one.shape) < _LARGE_BYTES
  )
