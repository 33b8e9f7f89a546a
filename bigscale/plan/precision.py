"""Checks the precision of float32 products in a compiled program.

Every convolution and matrix product of a compiled program carries the precision
that JAX traced as `operand_precision`. A TPU's matrix unit multiplies bfloat16.
Float32 operands are therefore split into bfloat16 parts: six pairs of parts are
multiplied at `highest`, and three at `high`. At `default`, both operands are
rounded and multiplied in one pass. Bfloat16 operands always take one pass.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.ops.precision import HALF, NETWORK
from bigscale.plan.hlo import Computation, Instruction, arrays
from bigscale.plan.hlo_flops import flops
from bigscale.spec import Precision, SpecError

# Cycles of a step's float32 products relative to `highest`;
# docs/reference/plans.md has the measurements.
COST = {"highest": 1.0, "high": 0.5, "default": 0.2}
MEANING = {
  "highest": "six bfloat16 passes, not rounded",
  "high": "three bfloat16 passes, rounded to 16 bits",
  "default": "one bfloat16 pass, rounded to 8 bits",
}
_ORDER = ("default", "high", "highest")
_STATED = re.compile(r"\boperand_precision=\{(\w+),(\w+)\}")
# Differentiation writes the scope as "jvp(network)".
_OF_NETWORK = re.compile(rf"\b{NETWORK}\b")
_OF_HALF = re.compile(rf"\b{HALF}\b")
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class StatedProduct:
  """A convolution or matrix product with a float32 operand.

  Attributes:
    op_name: path of the JAX scopes that created it; "" if unknown.
    precision: the lower of its two operands' precisions.
    flops: FLOP of one run.
    cycles: estimated cycles of one run, including fused operations.
    count: number of runs per step.
  """

  op_name: str
  precision: Precision
  flops: int
  cycles: float
  count: int = 1

  @property
  def place(self) -> str:
    """Location in the step: `network`, `half` or `elsewhere`.

    `network` is the forward or backward pass of G or D. `half` is a gradient of
    a bfloat16 stage.
    """
    if _OF_HALF.search(self.op_name):
      return "half"
    return "network" if _OF_NETWORK.search(self.op_name) else "elsewhere"


def product(
  computation: Computation, instruction: Instruction, cycles: float
) -> StatedProduct | None:
  """Returns an instruction's product, or None if no operand is float32.

  Args:
    computation: computation that contains the instruction.
    instruction: convolution or dot.
    cycles: estimated cycles of the instruction.
  """
  operands = (computation.by_name[name].shape for name in instruction.operands)
  if not any(
    dtype == "f32" for shape in operands for dtype, _ in arrays(shape)
  ):
    return None
  stated = _STATED.search(instruction.attributes)
  pair = stated.groups() if stated else ("default",)
  return StatedProduct(
    op_name=instruction.op_name,
    precision=min(pair, key=_ORDER.index),
    flops=flops(computation, instruction),
    cycles=cycles,
  )


def check(products: Sequence[StatedProduct], stated: Precision) -> None:
  """Checks that a program's products have the precision of its spec.

  Args:
    products: products of the program.
    stated: `model.precision`, expected in G and D. Float32 gradients of
      bfloat16 stages must be at `default`, and everything else at `highest`.

  Raises:
    SpecError: a product has another precision; the message names it.
  """
  wrong = {
    f"  {one.op_name or 'a product without a name'}: {one.precision}"
    for one in products
    if one.precision not in _allowed(one, stated)
  }
  if wrong:
    shown = sorted(wrong)[:_SHOWN]
    rest = len(wrong) - len(shown)
    raise SpecError(
      f"the compiled step has float32 products at another precision than "
      f"model.precision={stated!r} in the networks and 'highest' elsewhere:\n"
      + "\n".join(shown)
      + (f"\n  and {rest} more" if rest else "")
      + "\nCompute these products under bigscale.ops.precision.at or exact, or "
      "pass precision='highest' to them."
    )


def summary(
  products: Sequence[StatedProduct], clock_hz: float
) -> dict[str, Any]:
  """Returns counts and seconds of products, for a plan; see `report`."""
  found: dict[str, Any] = {}
  for one in products:
    place = one.place
    sums = found.setdefault(place, {}).setdefault(
      one.precision, {"count": 0, "flops": 0, "cycles_seconds": 0.0}
    )
    sums["count"] += one.count
    sums["flops"] += one.count * one.flops
    sums["cycles_seconds"] += one.count * one.cycles / clock_hz
  return found


def estimates(found: Mapping[str, Any], stated: Precision) -> dict[str, float]:
  """Estimates the seconds of the networks' float32 products by precision.

  Args:
    found: result of `summary`.
    stated: `model.precision` of the measured program.
  """
  seconds = found.get("network", {}).get(stated, {}).get("cycles_seconds", 0.0)
  return {name: seconds * COST[name] / COST[stated] for name in COST}


def _allowed(one: StatedProduct, stated: Precision) -> tuple[Precision, ...]:
  if not one.op_name:
    # The compiler created it, and its location is unknown.
    return (stated, "highest")
  by_place = {"network": stated, "half": "default", "elsewhere": "highest"}
  return (by_place[one.place],)
