"""Finds the collectives of a computation.

A collective has one of these forms in a TPU program:

- `all-reduce(...)` is synchronous: nothing else runs meanwhile.
- `all-gather-start` ... `all-gather-done`, or `async-start` around any
  collective: the instructions in between run at the same time.
- A fusion contains the collective and a custom call `AsyncCollectiveStart`.
  Further fusions continue it alongside their own work, up to one with
  `AsyncCollectiveDone`. Each fusion contains the collective, but it runs once.
- `send` and `recv` with `_xla_megascale_transfer_type` are a collective between
  slices, over the data-center network.

The size V of a collective is the whole buffer on one device: the result of an
all-gather, and the operand of all others.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from bigscale.plan.groups import Groups, replica_groups
from bigscale.plan.hlo import (
  Computation,
  Instruction,
  Module,
  first_dtype,
  size_in_bytes,
)

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BASE = {
  **{kind: kind for kind in KINDS},
  "ragged-all-to-all": "all-to-all",
  "collective-broadcast": "collective-permute",
}
_MEGASCALE = re.compile(r'\b_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'\b_xla_host_transfer_rendezvous="([^"]*)"')
_CHAIN = re.compile(r'\bchain_id="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective in a program.

  Attributes:
    kind: one of `KINDS`.
    bytes: size V; see the module docstring.
    dtype: dtype of the data.
    groups: partition ids of each group; () between slices.
    between_slices: whether it uses the data-center network.
    asynchronous: whether other instructions run at the same time.
    hidden_cycles: cycles of those other instructions.
    count: number of occurrences per step.
    op_name: path of JAX scopes.
  """

  kind: str
  bytes: int
  dtype: str
  groups: Groups
  between_slices: bool = False
  asynchronous: bool = False
  hidden_cycles: float = 0.0
  count: int = 1
  op_name: str = ""


def collectives(
  module: Module,
  computation: Computation,
  cycles: Sequence[float],
  devices: int,
) -> Iterator[Collective]:
  """Yields the collectives of a computation and its fusions, without loops.

  Args:
    module: program that contains the computation.
    computation: computation to search.
    cycles: cycles of each instruction, including those of loops and branches.
    devices: number of partitions of the program.
  """
  schedule = _Schedule(computation, cycles)
  for instruction in computation.instructions:
    base, _, suffix = instruction.opcode.rpartition("-")
    if instruction.opcode in _BASE:
      yield _plain(module, computation, instruction, devices)
    elif suffix == "start" and base in _BASE:
      yield schedule.until_done(
        _plain(module, computation, instruction, devices), instruction
      )
    elif instruction.opcode == "async-start":
      yield from schedule.wrapped(module, instruction, devices)
    elif instruction.opcode == "send" and _MEGASCALE.search(
      instruction.attributes
    ):
      yield schedule.between_slices(instruction)
  yield from schedule.fused(module, devices)


class _Schedule:
  """The cycles between any two instructions of a computation."""

  def __init__(self, computation: Computation, cycles: Sequence[float]) -> None:
    self._computation = computation
    self._index = {
      instruction.name: at
      for at, instruction in enumerate(computation.instructions)
    }
    self._cycles = cycles

  def _between(self, start: str, end: str | None) -> float:
    if end is None:
      return 0.0
    return sum(self._cycles[self._index[start] + 1 : self._index[end]])

  def _last(self, matches: Callable[[Instruction], bool]) -> str | None:
    found = [
      instruction.name
      for instruction in self._computation.instructions
      if matches(instruction)
    ]
    return found[-1] if found else None

  def until_done(self, found: Collective, start: Instruction) -> Collective:
    """Returns a collective as asynchronous, from its start to its done."""
    chain = {start.name}
    for instruction in self._computation.instructions:
      if instruction.opcode.endswith(("-update", "-done")) and chain & {
        *instruction.operands
      }:
        chain.add(instruction.name)
    end = self._last(
      lambda instruction: (
        instruction.name in chain and instruction.opcode.endswith("-done")
      )
    )
    return dataclasses.replace(
      found, asynchronous=True, hidden_cycles=self._between(start.name, end)
    )

  def wrapped(
    self, module: Module, start: Instruction, devices: int
  ) -> Iterator[Collective]:
    """Yields the collectives inside an `async-start`."""
    called = module.called(start)
    for instruction in called.instructions if called else ():
      if instruction.opcode in _BASE:
        found = _plain(module, called, instruction, devices)
        yield self.until_done(found, start)

  def between_slices(self, send: Instruction) -> Collective:
    """Returns the collective between slices that starts with `send`."""
    key = _RENDEZVOUS.search(send.attributes)
    arrives = [
      instruction.name
      for instruction in self._computation.instructions
      if instruction.opcode == "recv"
      and key
      and (theirs := _RENDEZVOUS.search(instruction.attributes))
      and theirs[1] == key[1]
    ]
    end = self._last(
      lambda instruction: (
        instruction.opcode == "recv-done" and instruction.operands[0] in arrives
      )
    )
    kind = _MEGASCALE.search(send.attributes)[1].lower().replace("_", "-")
    payload = self._computation.operand(send, 0).shape
    return Collective(
      kind=kind if kind in KINDS else "collective-permute",
      bytes=size_in_bytes(payload),
      dtype=first_dtype([payload]),
      groups=(),
      between_slices=True,
      asynchronous=True,
      hidden_cycles=self._between(send.name, end),
      op_name=send.op_name,
    )

  def fused(self, module: Module, devices: int) -> Iterator[Collective]:
    """Yields the collectives inside fusions, each once."""
    seen = {}
    for fusion in self._computation.instructions:
      called = module.called(fusion) if fusion.opcode == "fusion" else None
      if called is None:
        continue
      starts = any(
        instruction.attribute("custom_call_target") == "AsyncCollectiveStart"
        for instruction in called.instructions
      )
      for instruction in called.instructions:
        if instruction.opcode not in _BASE:
          continue
        found = _plain(module, called, instruction, devices)
        chain = _CHAIN.search(instruction.attributes)
        if chain is None:
          yield _as_reduce_scatter(found, called)
          continue
        key = (
          instruction.opcode,
          instruction.attribute("channel_id"),
          chain[1],
        )
        if starts or key not in seen:
          seen[key] = [found, fusion.name, fusion.name]
        seen[key][2] = fusion.name
    for found, start, end in seen.values():
      yield dataclasses.replace(
        found, asynchronous=True, hidden_cycles=self._between(start, end)
      )


def _plain(
  module: Module,
  computation: Computation,
  instruction: Instruction,
  devices: int,
) -> Collective:
  kind = _BASE[instruction.opcode.removesuffix("-start")]
  groups = replica_groups(instruction.attributes, devices)
  shapes = [computation.by_name[name].shape for name in instruction.operands]
  size = sum(map(size_in_bytes, shapes))
  if kind == "all-gather":
    size *= max(map(len, groups))
  return Collective(
    kind=kind,
    bytes=size,
    dtype=first_dtype(shapes),
    groups=groups,
    op_name=instruction.op_name,
  )


def _as_reduce_scatter(found: Collective, fusion: Computation) -> Collective:
  """Turns an all-reduce followed by a slice into a reduce-scatter."""
  if found.kind == "all-reduce" and fusion.root.opcode == "dynamic-slice":
    return dataclasses.replace(found, kind="reduce-scatter")
  return found
