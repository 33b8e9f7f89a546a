"""What becomes of float32 operands in the products of a compiled program.

The precision that JAX traced stands on every convolution and product of the
compiled program, `operand_precision`. A TPU's matrix unit takes bfloat16: at
`highest` it multiplies six pairs of parts of two float32 operands, at `high`
three, at `default` it rounds both. Operands that are bfloat16 take one pass at
any of them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.ops.precision import HALF, NETWORK
from bigscale.plan.hlo import Computation, Instruction, arrays
from bigscale.plan.hlo_flops import flops
from bigscale.spec import Precision, SpecError

# Cycles over those at `highest`, of what multiplies float32 in a whole step;
# docs/reference/plans.md has the steps it was read off.
COST = {"highest": 1.0, "high": 0.5, "default": 0.2}
MEANING = {
  "highest": "six bfloat16 passes, not rounded",
  "high": "three bfloat16 passes, rounded to 16 bits",
  "default": "one bfloat16 pass, rounded to 8 bits",
}
_ORDER = ("default", "high", "highest")
_STATED = re.compile(r"\boperand_precision=\{(\w+),(\w+)\}")
# JAX writes "jvp(network)" for it where it differentiates.
_OF_NETWORK = re.compile(rf"\b{NETWORK}\b")
_OF_HALF = re.compile(rf"\b{HALF}\b")
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class StatedProduct:
  """A convolution or product with a float32 operand.

  Attributes:
    op_name: path of JAX scopes it comes from, "" where unknown.
    precision: of the operand that is rounded more.
    flops: of one run.
    cycles: estimated, of one run, with what is fused to it.
    count: how often it runs in a step.
  """

  op_name: str
  precision: Precision
  flops: int
  cycles: float
  count: int = 1

  @property
  def place(self) -> str:
    """`network`: G or D in either direction; `half`, `elsewhere`."""
    if _OF_HALF.search(self.op_name):
      return "half"
    return "network" if _OF_NETWORK.search(self.op_name) else "elsewhere"


def product(
  computation: Computation, one: Instruction, cycles: float
) -> StatedProduct | None:
  """The product that an instruction is; None where no operand is float32.

  Args:
    computation: of the instruction.
    one: a convolution or dot.
    cycles: estimated for it.
  """
  operands = (computation.by_name[name].shape for name in one.operands)
  if not any(
    dtype == "f32" for shape in operands for dtype, _ in arrays(shape)
  ):
    return None
  stated = _STATED.search(one.attributes)
  pair = stated.groups() if stated else ("default",)
  return StatedProduct(
    op_name=one.op_name,
    precision=min(pair, key=_ORDER.index),
    flops=flops(computation, one),
    cycles=cycles,
  )


def check(products: Sequence[StatedProduct], stated: Precision) -> None:
  """Compares a program with what its spec says.

  Args:
    products: of the program.
    stated: `model.precision`; of G and D. Everything else is at `highest`,
      but float32 gradients of bfloat16 stages, which are at `default`.

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
      f"the compiled step multiplies float32 otherwise than at "
      f"model.precision={stated!r} in the networks and 'highest' elsewhere:\n"
      + "\n".join(shown)
      + (f"\n  and {rest} more" if rest else "")
      + "\nCompute there under bigscale.ops.precision.at or exact, or give "
      "the product precision='highest'."
    )


def summary(
  products: Sequence[StatedProduct], clock_hz: float
) -> dict[str, Any]:
  """Counts of products and their seconds, for a plan; see `report`."""
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
  """Seconds of the networks' float32 products by choice, by proportion.

  Args:
    found: a `summary`.
    stated: `model.precision` there.
  """
  seconds = found.get("network", {}).get(stated, {}).get("cycles_seconds", 0.0)
  return {name: seconds * COST[name] / COST[stated] for name in COST}


def _allowed(one: StatedProduct, stated: Precision) -> tuple[Precision, ...]:
  if not one.op_name:
    # Of the compiler's own making, from either.
    return (stated, "highest")
  by_place = {"network": stated, "half": "default", "elsewhere": "highest"}
  return (by_place[one.place],)
