"""Reads the text of a compiled XLA program.

Only what the planner asks for is understood: computations, instructions with
operands and shapes, and a few attributes. The grammar is XLA's HLO text, as
`jax.stages.Compiled.as_text` prints it for TPUs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_BITS = {
  "pred": 8,
  "bf16": 16,
  "f16": 16,
  "f32": 32,
  "f64": 64,
  "c64": 64,
  "c128": 128,
}


class HloError(ValueError):
  """Text that is no HLO program."""


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique within the computation.
    shape: of the result, as printed: "bf16[8,128]{1,0}" or a tuple of them.
    opcode: "fusion", "all-reduce-start", ...
    operands: names of instructions of the same computation.
    argument: what stands in the parentheses: "0" of `parameter(0)`.
    attributes: all that follows.
    is_root: whether it is the computation's result.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  argument: str
  attributes: str
  is_root: bool

  @functools.cached_property
  def cycles(self) -> int | None:
    """`estimated_cycles` of the TPU compiler; None where it gives none."""
    found = re.search(r'"estimated_cycles":"?(\d+)', self.attributes)
    return int(found[1]) if found else None

  @functools.cached_property
  def op_name(self) -> str:
    """Path of JAX scopes it comes from, "" where unknown."""
    found = re.search(r'\bop_name="((?:[^"\\]|\\.)*)"', self.attributes)
    return found[1] if found else ""

  def attribute(self, name: str) -> str | None:
    """The word that follows `name=`, without % and quotes."""
    found = re.search(rf'\b{name}=[%"]?([\w.\-]+)', self.attributes)
    return found[1] if found else None

  @functools.cached_property
  def branches(self) -> tuple[str, ...]:
    """Computations that a `conditional` chooses from."""
    found = re.search(r"\bbranch_computations=\{([^}]*)\}", self.attributes)
    if found:
      return tuple(re.findall(r"[\w.\-]+", found[1]))
    both = (self.attribute(f"{name}_computation") for name in ("true", "false"))
    return tuple(name for name in both if name)


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of the program, its instructions in scheduled order."""

  name: str
  instructions: tuple[Instruction, ...]

  @functools.cached_property
  def by_name(self) -> Mapping[str, Instruction]:
    """Instructions by name."""
    return {one.name: one for one in self.instructions}

  @property
  def root(self) -> Instruction:
    """The result."""
    return next(one for one in self.instructions if one.is_root)

  def operand(self, instruction: Instruction, index: int) -> Instruction:
    """The instruction that gives an operand."""
    return self.by_name[instruction.operands[index]]


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: computations by name, and the one that runs."""

  computations: Mapping[str, Computation]
  entry: Computation

  def called(self, instruction: Instruction) -> Computation | None:
    """What a fusion, call or asynchronous start runs."""
    name = instruction.attribute("calls") or instruction.attribute("to_apply")
    return self.computations.get(name) if name else None

  def inside(self, computation: Computation) -> Iterator[Instruction]:
    """A computation's instructions and those of its fusions, in depth."""
    for one in computation.instructions:
      called = self.called(one) if one.opcode == "fusion" else None
      if called is not None:
        yield from self.inside(called)
      yield one


def parse(text: str) -> Module:
  """Reads a program.

  Raises:
    HloError: it has no entry computation.
  """
  computations, entry = {}, None
  name, is_entry, lines = None, False, []
  for line in text.splitlines():
    if name is None:
      header = _HEADER.match(line)
      if header and " -> " in line:
        is_entry, name, lines = bool(header[1]), header[2], []
    elif line.startswith("}"):
      parsed = (_instruction(one) for one in lines)
      computation = Computation(name, tuple(one for one in parsed if one))
      computations[name] = computation
      entry = computation if is_entry else entry
      name = None
    else:
      lines.append(line)
  if entry is None:
    raise HloError(
      "the text has no ENTRY computation; give what Compiled.as_text() printed"
    )
  return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
  start = _INSTRUCTION.match(line)
  if not start:
    return None
  at = start.end()
  if line[at] == "(":
    end = _closing(line, at) + 1
  else:
    end = line.index(" ", at)
  shape, opens = line[at:end], line.index("(", end)
  closes = _closing(line, opens)
  argument = line[opens + 1 : closes]
  return Instruction(
    name=start[2],
    shape=shape,
    opcode=line[end:opens].strip(),
    operands=tuple(re.findall(r"%([\w.\-]+)", argument)),
    argument=argument,
    attributes=line[closes + 1 :],
    is_root=bool(start[1]),
  )


def _closing(line: str, opening: int) -> int:
  """Where the parenthesis opened at `opening` closes."""
  depth = 0
  for found in re.finditer(r"[()]", line[opening:]):
    depth += 1 if found[0] == "(" else -1
    if depth == 0:
      return opening + found.start()
  raise HloError(f"unbalanced parentheses in {line[:200]!r}")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
  """(dtype, dimensions) of an array or of a tuple's members, tokens left out.

  A dimension of varying size counts at its bound.
  """
  return [
    (dtype, tuple(int(n.lstrip("<=")) for n in sizes.split(",") if n))
    for dtype, sizes in _SHAPE.findall(shape)
  ]


def bits(dtype: str) -> int:
  """Size of one element: 16 for "bf16", 4 for "s4"."""
  if dtype in _BITS:
    return _BITS[dtype]
  found = re.match(r"[suf](\d+)", dtype)
  return int(found[1]) if found else 0


def size_in_bytes(shape: str) -> int:
  """Bytes of a result without the padding of its layout."""
  total = sum(bits(dtype) * math.prod(dims) for dtype, dims in arrays(shape))
  return total // 8


def first_dtype(shapes: Sequence[str]) -> str:
  """The dtype of the first array among shapes, "" where there is none."""
  return next((dtype for one in shapes for dtype, _ in arrays(one)), "")
