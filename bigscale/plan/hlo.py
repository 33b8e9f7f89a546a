"""Parses the HLO text of a compiled XLA program.

The parser supports only what the planner needs: computations, instructions with
operands and shapes, and a few attributes. The input is the HLO text that
`jax.stages.Compiled.as_text` returns for TPUs.
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
  """Raised if a text is not an HLO program."""


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An instruction, which is one line of a computation.

  Attributes:
    name: name, unique within the computation.
    shape: shape of the result, as printed: "bf16[8,128]{1,0}", or a tuple.
    opcode: operation, such as "fusion" or "all-reduce-start".
    operands: names of the operands, instructions of the same computation.
    argument: text in the parentheses, such as "0" in `parameter(0)`.
    attributes: text after the parentheses.
    is_root: whether the result is the computation's result.
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
    """The TPU compiler's `estimated_cycles`, or None if it is absent."""
    found = re.search(r'"estimated_cycles":"?(\d+)', self.attributes)
    return int(found[1]) if found else None

  @functools.cached_property
  def op_name(self) -> str:
    """Path of the JAX scopes that created it; "" if unknown."""
    found = re.search(r'\bop_name="((?:[^"\\]|\\.)*)"', self.attributes)
    return found[1] if found else ""

  def attribute(self, name: str) -> str | None:
    """Returns the word after `name=`, without % and quotes."""
    found = re.search(rf'\b{name}=[%"]?([\w.\-]+)', self.attributes)
    return found[1] if found else None

  @functools.cached_property
  def branches(self) -> tuple[str, ...]:
    """Names of the branch computations of a `conditional`."""
    found = re.search(r"\bbranch_computations=\{([^}]*)\}", self.attributes)
    if found:
      return tuple(re.findall(r"[\w.\-]+", found[1]))
    both = (self.attribute(f"{name}_computation") for name in ("true", "false"))
    return tuple(name for name in both if name)


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of the program, with instructions in scheduled order."""

  name: str
  instructions: tuple[Instruction, ...]

  @functools.cached_property
  def by_name(self) -> Mapping[str, Instruction]:
    """Instructions by name."""
    return {instruction.name: instruction for instruction in self.instructions}

  @property
  def root(self) -> Instruction:
    """The instruction whose result the computation returns."""
    return next(
      instruction for instruction in self.instructions if instruction.is_root
    )

  def operand(self, instruction: Instruction, index: int) -> Instruction:
    """Returns the instruction that computes an operand."""
    return self.by_name[instruction.operands[index]]


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: computations by name, and the entry computation."""

  computations: Mapping[str, Computation]
  entry: Computation

  def called(self, instruction: Instruction) -> Computation | None:
    """Returns the computation that a fusion, call or async start runs."""
    name = instruction.attribute("calls") or instruction.attribute("to_apply")
    return self.computations.get(name) if name else None

  def inside(self, computation: Computation) -> Iterator[Instruction]:
    """Yields the instructions of a computation and, nested, of its fusions."""
    for instruction in computation.instructions:
      called = (
        self.called(instruction) if instruction.opcode == "fusion" else None
      )
      if called is not None:
        yield from self.inside(called)
      yield instruction


def parse(text: str) -> Module:
  """Parses the text of a program.

  Raises:
    HloError: the text has no entry computation.
  """
  computations, entry = {}, None
  name, is_entry, lines = None, False, []
  for line in text.splitlines():
    if name is None:
      header = _HEADER.match(line)
      if header and " -> " in line:
        is_entry, name, lines = bool(header[1]), header[2], []
    elif line.startswith("}"):
      parsed = (_instruction(line) for line in lines)
      computation = Computation(
        name, tuple(instruction for instruction in parsed if instruction)
      )
      computations[name] = computation
      entry = computation if is_entry else entry
      name = None
    else:
      lines.append(line)
  if entry is None:
    raise HloError(
      "the text has no ENTRY computation; pass the text of Compiled.as_text()"
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
  """Returns the index of the parenthesis that closes the one at `opening`."""
  depth = 0
  for found in re.finditer(r"[()]", line[opening:]):
    depth += 1 if found[0] == "(" else -1
    if depth == 0:
      return opening + found.start()
  raise HloError(f"unbalanced parentheses in {line[:200]!r}")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
  """Returns (dtype, dimensions) of an array or of each member of a tuple.

  Tokens are skipped. A dynamic dimension has its upper bound.
  """
  return [
    (dtype, tuple(int(n.lstrip("<=")) for n in sizes.split(",") if n))
    for dtype, sizes in _SHAPE.findall(shape)
  ]


def bits(dtype: str) -> int:
  """Returns the bits per element: 16 for "bf16", 4 for "s4"."""
  if dtype in _BITS:
    return _BITS[dtype]
  found = re.match(r"[suf](\d+)", dtype)
  return int(found[1]) if found else 0


def size_in_bytes(shape: str) -> int:
  """Returns the bytes of a result, without the padding of its layout."""
  total = sum(bits(dtype) * math.prod(dims) for dtype, dims in arrays(shape))
  return total // 8


def first_dtype(shapes: Sequence[str]) -> str:
  """Returns the dtype of the first array in the shapes, or "" without one."""
  return next((dtype for shape in shapes for dtype, _ in arrays(shape)), "")
