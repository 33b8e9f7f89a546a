"""Derives the trip counts of a program's loops.

The TPU compiler prints no trip counts. However, a `lax.scan` becomes a loop
whose condition compares a counter with a constant. Both can be traced through
copies, conversions, fusions and the tuples that carry values between
iterations. A count that cannot be traced is not guessed.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bigscale.plan.hlo import Computation, Instruction, Module

_SAME_VALUE = frozenset(
  ("copy", "convert", "bitcast", "reshape", "copy-done", "optimization-barrier")
)
_DIRECTION = re.compile(r"\bdirection=(\w+)")


class Scalar(NamedTuple):
  """An integer: `constant` plus the loop's carried value at index `carried`.

  `carried` is None if the integer does not depend on a carried value.
  """

  carried: int | None
  constant: int


Argument = Callable[[int, int | None], Scalar | None]


def _nothing_known(number: int, index: int | None) -> None:
  del number, index


@dataclasses.dataclass(frozen=True)
class Frame:
  """A computation with the known values of its parameters.

  Attributes:
    module: program that contains the computation.
    computation: computation that runs.
    argument: function of (number, index) that returns the value of parameter
      `number`, or of its tuple member `index`.
  """

  module: Module
  computation: Computation
  argument: Argument = _nothing_known

  def scalar(self, name: str, index: int | None = None) -> Scalar | None:
    """Returns an integer's value, or None if it cannot be traced."""
    instruction = self.computation.by_name[name]
    if instruction.opcode == "constant":
      integer = re.fullmatch(r"\{?(-?\d+)\}?", instruction.argument.strip())
      return Scalar(None, int(integer[1])) if integer else None
    if instruction.opcode in _SAME_VALUE:
      return self.scalar(instruction.operands[0], index)
    if instruction.opcode == "copy-start":
      return self.scalar(instruction.operands[0], None)
    if instruction.opcode == "parameter":
      return self.argument(int(instruction.argument), index)
    if instruction.opcode == "tuple" and index is not None:
      return self.scalar(instruction.operands[index])
    if instruction.opcode == "get-tuple-element" and index is None:
      return self.scalar(
        instruction.operands[0], int(instruction.attribute("index"))
      )
    if instruction.opcode in ("add", "subtract"):
      return self._sum(instruction)
    if instruction.opcode == "fusion":
      inner = self.fused(instruction)
      return inner.scalar(inner.computation.root.name, index)
    if instruction.opcode == "while" and index is not None:
      return self._invariant(instruction, index)
    return None

  def fused(self, fusion: Instruction) -> "Frame":
    """Returns the frame of a fusion's computation."""
    return Frame(
      self.module,
      self.module.called(fusion),
      lambda number, index: self.scalar(fusion.operands[number], index),
    )

  def body(self, loop: Instruction) -> "Frame":
    """Returns the frame of a loop's body, with its loop-invariant values."""
    return Frame(
      self.module,
      self.module.computations[loop.attribute("body")],
      lambda number, index: self._invariant(loop, index),
    )

  def _invariant(self, loop: Instruction, index: int | None) -> Scalar | None:
    if index is None or _step(self.module, loop, index) != 0:
      return None
    return self.scalar(loop.operands[0], index)

  def _sum(self, instruction: Instruction) -> Scalar | None:
    left, right = (self.scalar(name) for name in instruction.operands)
    if left is None or right is None:
      return None
    if instruction.opcode == "subtract":
      if right.carried is not None:
        return None
      return Scalar(left.carried, left.constant - right.constant)
    if left.carried is not None and right.carried is not None:
      return None
    carried = right.carried if left.carried is None else left.carried
    return Scalar(carried, left.constant + right.constant)


def trip_count(
  frame: Frame, loop: Instruction, hints: Mapping[str, int]
) -> int | None:
  """Returns the number of iterations of a `while`.

  Args:
    frame: frame of the computation that contains the loop.
    loop: `while` instruction.
    hints: counts by scope, for loops whose count cannot be traced. The
      innermost scope of the loop's `op_name` that is a key decides.

  Returns:
    The count, or None if it can neither be traced nor found in `hints`.
  """
  read = _read_count(frame, loop)
  if read is not None:
    return read
  for scope in reversed(re.findall(r"\w+", loop.op_name)):
    if scope in hints:
      return hints[scope]
  return None


def _read_count(frame: Frame, loop: Instruction) -> int | None:
  compared = _condition(frame.module, loop)
  if compared is None:
    return None
  left, direction, right = compared
  flipped = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}
  for counter, other, sense in (
    (left, right, direction),
    (right, left, flipped.get(direction, "")),
  ):
    if counter.carried is None:
      continue
    step = _step(frame.module, loop, counter.carried)
    first = frame.scalar(loop.operands[0], counter.carried)
    limit = other
    if other.carried is not None:
      limit = frame._invariant(loop, other.carried)
      limit = limit and Scalar(None, limit.constant + other.constant)
    if not step or first is None or limit is None:
      continue
    if first.carried is not None or limit.carried is not None:
      continue
    span = limit.constant - first.constant - counter.constant
    return _iterations(span, step, sense)
  return None


def _iterations(span: int, step: int, sense: str) -> int | None:
  """Returns the number of steps from 0 until `counter sense span` fails."""
  if sense == "NE":
    return span // step if span % step == 0 and span // step >= 0 else None
  if sense in ("LE", "GE"):
    span += 1 if sense == "LE" else -1
    sense = {"LE": "LT", "GE": "GT"}[sense]
  if (sense == "LT" and step > 0) or (sense == "GT" and step < 0):
    return max(0, math.ceil(span / step))
  return None


def _condition(
  module: Module, loop: Instruction
) -> tuple[Scalar, str, Scalar] | None:
  """Returns the two sides of a loop's condition and its direction."""
  frame = _carried_frame(module, loop.attribute("condition"))
  root = frame.computation.root
  while root.opcode in ("fusion", *_SAME_VALUE):
    if root.opcode == "fusion":
      frame = frame.fused(root)
      root = frame.computation.root
    else:
      root = frame.computation.operand(root, 0)
  direction = _DIRECTION.search(root.attributes)
  if root.opcode != "compare" or not direction:
    return None
  left, right = (frame.scalar(name) for name in root.operands)
  if left is None or right is None:
    return None
  return left, direction[1], right


def _step(module: Module, loop: Instruction, index: int) -> int | None:
  """Returns what an iteration adds to a carried value, or None if unknown."""
  frame = _carried_frame(module, loop.attribute("body"))
  after = frame.scalar(frame.computation.root.name, index)
  if after is None or after.carried != index:
    return None
  return after.constant


def _carried_frame(module: Module, name: str | None) -> Frame:
  """Returns a frame whose parameters are the loop's carried values."""
  return Frame(
    module,
    module.computations[name],
    lambda number, index: None if index is None else Scalar(index, 0),
  )
