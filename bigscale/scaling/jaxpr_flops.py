"""Counts the convolutions and matrix products of a traced program.

The count walks the equations of the program's jaxpr, so it supports networks of
any layers without a table of layer costs. A loop body counts once per
iteration. A conditional counts as its most expensive branch. As in XLA's own
count, taps that fall on padding or between dilated pixels are free.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from bigscale.spec import SpecError

# Bits that record what a value depends on: parameters, or the sample.
LEARNED, SAMPLE = 1, 2

# Primitives that only move data.
_MOVES = frozenset(
  (
    "bitcast_convert_type",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "iota",
    "pad",
    "pvary",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "transpose",
  )
)
# Primitives whose computation is not visible in the jaxpr.
_OPAQUE = frozenset({"pallas_call", "ffi_call", "custom_call", "pure_callback"})


class UnknownCostError(SpecError):
  """Raised if a program contains products that cannot be counted."""


class Product(NamedTuple):
  """A convolution or matrix product of a program.

  Attributes:
    count: number of multiply-adds. Callers may divide it by the batch size.
    left: what the left factor depends on, bits of `LEARNED` and `SAMPLE`.
    right: what the right factor depends on, as in `left`.
  """

  count: float
  left: int
  right: int

  @property
  def between(self) -> bool:
    """Whether both factors depend on the sample, as in attention."""
    return bool(self.left & self.right & SAMPLE)

  @property
  def first(self) -> bool:
    """Whether the factor that depends on the sample has no parameters."""
    return LEARNED not in (
      side & LEARNED for side in (self.left, self.right) if side & SAMPLE
    )

  @property
  def fixed(self) -> bool:
    """Whether no factor is a weight, as with a constant filter."""
    return not self.between and not any(
      side == LEARNED for side in (self.left, self.right)
    )


class Counted(NamedTuple):
  """Operations of a program.

  Attributes:
    products: convolutions and matrix products, in program order.
    elementwise: number of other operations: one per element that is computed,
      or per input element of a reduction.
  """

  products: tuple[Product, ...]
  elementwise: float

  @property
  def flops(self) -> float:
    """Number of multiplications and additions of the products."""
    return 2 * sum(product.count for product in self.products)


def count(
  program: core.ClosedJaxpr, inputs: Sequence[int] | None = None
) -> Counted:
  """Counts the operations of a traced program.

  Args:
    program: `jax.make_jaxpr(f)(...)` or `jax.jit(f).trace(...).jaxpr`.
    inputs: what each input depends on, bits of `LEARNED` and `SAMPLE`.

  Raises:
    UnknownCostError: the computation of a primitive is not visible; the message
      names the primitive.
  """
  jaxpr = program.jaxpr
  inputs = inputs or [0] * len(jaxpr.invars)
  return _Walk().program(jaxpr, inputs)[0]


class _Walk:
  """A pass over the equations of a program and of the programs it calls."""

  def program(
    self, jaxpr: core.Jaxpr, inputs: Sequence[int]
  ) -> tuple[Counted, list[int]]:
    """Returns a program's operations and what its outputs depend on."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(variable: Any) -> int:
      return 0 if isinstance(variable, core.Literal) else known.get(variable, 0)

    products: list[Product] = []
    elementwise = 0
    for equation in jaxpr.eqns:
      counted, outputs = self._equation(equation, [*map(of, equation.invars)])
      products += counted.products
      elementwise += counted.elementwise
      known.update(zip(equation.outvars, outputs, strict=True))
    return Counted(tuple(products), elementwise), [*map(of, jaxpr.outvars)]

  def _equation(
    self, equation: core.JaxprEqn, inputs: list[int]
  ) -> tuple[Counted, list[int]]:
    name = equation.primitive.name
    together = functools.reduce(int.__or__, inputs, 0)
    outputs = [together] * len(equation.outvars)
    if name in ("dot_general", "conv_general_dilated"):
      of = _of_product if name == "dot_general" else _of_convolution
      return Counted((Product(of(equation), *inputs[:2]),), 0), outputs
    if name in _OPAQUE:
      raise UnknownCostError(
        f"the operations of {name!r} cannot be counted; count them by hand, or "
        "use a plain JAX implementation to count FLOP"
      )
    if name == "cond":
      return self._branches(equation.params["branches"], inputs)
    if name == "scan":
      return self._scan(equation, inputs)
    inner = [*_programs(equation.params)]
    if not inner:
      return Counted((), _elementwise(equation)), outputs
    # The parameters of a call hold several programs: the function itself, which
    # is counted, and its derivative rules.
    called = next(
      (body for body in inner if len(body.invars) == len(inputs)), None
    )
    if name == "while" or called is None:
      # Also covers the binary functions of reductions and scatters.
      if any(self._products_of(body, together) for body in inner):
        raise UnknownCostError(
          f"{name!r} contains a product, but its number of iterations is "
          "unknown; use jax.lax.scan instead"
        )
      return Counted((), _elementwise(equation)), outputs
    counted, outputs = self.program(called, inputs)
    if name == "shard_map":
      counted = _times(counted, equation.params["mesh"].size)
    return counted, outputs

  def _products_of(self, body: core.Jaxpr, of: int) -> tuple[Product, ...]:
    return self.program(body, [of] * len(body.invars))[0].products

  def _branches(
    self, branches: Sequence[core.ClosedJaxpr], inputs: list[int]
  ) -> tuple[Counted, list[int]]:
    which, *arguments = inputs
    results = [self.program(branch.jaxpr, arguments) for branch in branches]
    largest = max((counted for counted, _ in results), key=lambda c: c.flops)
    outputs = [
      which | functools.reduce(int.__or__, each)
      for each in zip(*(made for _, made in results), strict=True)
    ]
    return largest, outputs

  def _scan(
    self, equation: core.JaxprEqn, inputs: list[int]
  ) -> tuple[Counted, list[int]]:
    params = equation.params
    body = params["jaxpr"].jaxpr
    if "num_carry" in params:
      start, carry = params["num_consts"], params["num_carry"]
    else:  # JAX 0.12
      start, carry, _ = map(len, params["ft_in"].unpack())
    end = start + carry
    while True:
      counted, outputs = self.program(body, inputs)
      carried = [
        before | after
        for before, after in zip(
          inputs[start:end], outputs[: end - start], strict=True
        )
      ]
      if carried == inputs[start:end]:
        return _times(counted, params["length"]), outputs
      inputs = [*inputs[:start], *carried, *inputs[end:]]


def _times(counted: Counted, often: int) -> Counted:
  return Counted(
    tuple(p._replace(count=often * p.count) for p in counted.products),
    often * counted.elementwise,
  )


def _programs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
  """Yields the programs that an equation calls."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      program = getattr(item, "jaxpr", item)
      if hasattr(program, "eqns"):
        yield program


def _elementwise(equation: core.JaxprEqn) -> int:
  """Returns the number of elements that an equation reduces or computes."""
  name = equation.primitive.name
  if name in _MOVES:
    return 0
  counted = equation.outvars
  if name.startswith(("reduce_", "arg", "cum")):
    counted = equation.invars
  return sum(math.prod(getattr(v.aval, "shape", ())) for v in counted)


def _of_product(equation: core.JaxprEqn) -> int:
  (summed, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  return equation.outvars[0].aval.size * math.prod(left[a] for a in summed)


def _of_convolution(equation: core.JaxprEqn) -> int:
  params = equation.params
  image, kernel = (variable.aval.shape for variable in equation.invars[:2])
  result = equation.outvars[0].aval
  numbers = params["dimension_numbers"]
  _, _, *image_axes = numbers.lhs_spec
  _, inputs, *kernel_axes = numbers.rhs_spec
  _, _, *result_axes = numbers.out_spec
  positions = taps = 1
  for i, (of_image, of_kernel, of_result) in enumerate(
    zip(image_axes, kernel_axes, result_axes, strict=True)
  ):
    positions *= result.shape[of_result]
    taps *= _taps(
      inputs=image[of_image],
      kernel=kernel[of_kernel],
      outputs=result.shape[of_result],
      stride=params["window_strides"][i],
      gap=params["lhs_dilation"][i],
      spread=params["rhs_dilation"][i],
      before=params["padding"][i][0],
    )
  return result.size // positions * kernel[inputs] * taps


@functools.cache
def _taps(
  *,
  inputs: int,
  kernel: int,
  outputs: int,
  stride: int,
  gap: int,
  spread: int,
  before: int,
) -> int:
  """Returns how many taps fall on an input, along one axis over all outputs."""
  at = (
    np.arange(outputs)[:, None] * stride
    + np.arange(kernel)[None] * spread
    - before
  )
  inside = (at >= 0) & (at < (inputs - 1) * gap + 1)
  return int((inside & (at % gap == 0)).sum())


def of_call(function: jax.stages.Wrapped, *arguments: Any) -> Counted:
  """Counts one call of a jitted function over all devices.

  Args:
    function: jitted function.
    *arguments: arguments of the call, arrays or `jax.ShapeDtypeStruct`s.
  """
  return count(function.trace(*arguments).jaxpr)
