"""Sums the cycles, FLOP and collectives of a compiled program.

A loop body counts once per iteration (`loops`), and a conditional counts as its
most expensive branch. Cycles are the TPU compiler's `estimated_cycles` of each
scheduled instruction. Some instructions have no estimate: collectives, which
`cost` models; copies between HBM and VMEM, which overlap with other work; and a
few others, which `uncosted` counts by opcode if their results are large.
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

# Opcodes that only name values, or whose work is counted elsewhere.
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
# Custom calls that only name memory; the copies around them do the work.
_NAMING = ("AllocateBuffer", "ConcatBitcast")


@dataclasses.dataclass
class Work:
  """Work of one execution of a computation.

  Attributes:
    cycles: cycles by (phase, category) of `categories`.
    collectives: collectives, each with its number of occurrences.
    flops: FLOP of convolutions and matrix products.
    flops_once: the same FLOP with every loop body counted once.
    float32: products with a float32 operand, each with its number of runs.
    uncosted: number of large instructions without an estimate, by opcode.
    warnings: assumptions that were made.
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
    """Sum over all phases and categories."""
    return sum(self.cycles.values())

  def add(self, other: "Work", times: int = 1) -> None:
    """Adds other work that runs `times` times."""
    for key, cycles in other.cycles.items():
      self.cycles[key] += times * cycles
    for opcode, count in other.uncosted.items():
      self.uncosted[opcode] += times * count
    for mine, theirs in (
      (self.collectives, other.collectives),
      (self.float32, other.float32),
    ):
      mine += [
        dataclasses.replace(item, count=times * item.count)
        for item in theirs
        if times
      ]
    self.flops += times * other.flops
    self.flops_once += other.flops_once
    self.warnings += [
      warning for warning in other.warnings if warning not in self.warnings
    ]


def measure(
  module: Module, devices: int, hints: Mapping[str, int] | None = None
) -> Work:
  """Returns the work of a program.

  Args:
    module: parsed program.
    devices: number of partitions of the program.
    hints: trip counts by scope, for loops whose count cannot be traced; see
      `loops`.
  """
  meter = _Meter(module, devices, hints or {})
  return meter.computation(Frame(module, module.entry))


class _Meter:
  """A pass over the computations of a program."""

  def __init__(
    self, module: Module, devices: int, hints: Mapping[str, int]
  ) -> None:
    self._module = module
    self._devices = devices
    self._hints = hints

  def computation(self, frame: Frame) -> Work:
    """Returns all work of a computation."""
    work, cycles = Work(), []
    for instruction in frame.computation.instructions:
      nested = self._nested(frame, instruction)
      cycles.append(nested.total_cycles + (instruction.cycles or 0))
      work.add(nested)
      self._count(work, frame.computation, instruction)
    work.collectives += collectives(
      self._module, frame.computation, cycles, self._devices
    )
    return work

  def _count(
    self, work: Work, computation: Computation, instruction: Instruction
  ) -> None:
    """Adds the work of an instruction, without that of loops and branches."""
    if instruction.cycles is not None:
      key = (
        categories.phase(instruction),
        categories.category(self._module, instruction),
      )
      work.cycles[key] += instruction.cycles
    elif _needs_estimate(instruction):
      work.uncosted[instruction.opcode] += 1
    multiplied = self._multiplied(computation, instruction)
    for where, inner in multiplied:
      share = (instruction.cycles or 0) / len(multiplied)
      product = precision.product(where, inner, share)
      work.float32 += [product] if product else []
      operations = flops(where, inner)
      work.flops += operations
      work.flops_once += operations

  def _multiplied(
    self, computation: Computation, instruction: Instruction
  ) -> list[tuple[Computation, Instruction]]:
    """Returns the products of an instruction, including fused ones."""
    if instruction.opcode in categories.MXU:
      return [(computation, instruction)]
    if instruction.opcode != "fusion":
      return []
    called = self._module.called(instruction)
    return [
      pair
      for inner in called.instructions
      for pair in self._multiplied(called, inner)
    ]

  def _nested(self, frame: Frame, instruction: Instruction) -> Work:
    """Returns the work of a loop, a conditional or a call."""
    work = Work()
    if instruction.opcode == "while":
      work.add(
        self.computation(frame.body(instruction)),
        self._trip_count(frame, instruction, work),
      )
    elif instruction.opcode == "conditional":
      branches = [
        self.computation(Frame(self._module, self._module.computations[name]))
        for name in instruction.branches
      ]
      work.add(max(branches, key=lambda branch: branch.total_cycles))
      work.warnings.append(
        f"{instruction.op_name or instruction.name}: one of {len(branches)} "
        "branches runs; the most expensive one is counted"
      )
    elif instruction.opcode in ("call", "async-start"):
      called = self._module.called(instruction)
      if called is not None:
        inner = self.computation(Frame(self._module, called))
        if instruction.opcode == "async-start":
          # `collectives` yields them at the start, with their hidden cycles.
          inner.collectives.clear()
        work.add(inner)
    return work

  def _trip_count(self, frame: Frame, loop: Instruction, work: Work) -> int:
    trips = trip_count(frame, loop, self._hints)
    if trips is None:
      work.warnings.append(
        f"{loop.op_name or loop.name}: the trip count of this loop is unknown; "
        "its body is counted once"
      )
      return 1
    return trips


def _needs_estimate(instruction: Instruction) -> bool:
  return not (
    instruction.opcode in _FREE
    or instruction.opcode.endswith(_TRANSFERS)
    or instruction.attribute("custom_call_target") in _NAMING
    or instruction.opcode.removesuffix("-start") in KINDS
    or size_in_bytes(instruction.shape) < _LARGE_BYTES
  )
