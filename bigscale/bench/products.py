"""Multiplications and additions of a traced program.

Those of convolutions and matrix products, as they are written: loops times
their length, the larger branch of a choice, zeros between dilated pixels free.
What a compiler makes of a program may differ.
"""

import math
from typing import Any

import jax
from jax.extend import core


def flops(function: jax.stages.Wrapped, *arguments: Any) -> int:
  """Floating-point operations of one call, over all devices.

  Args:
    function: of arrays, jitted.
    *arguments: arrays or shapes.
  """
  return _of_program(function.trace(*arguments).jaxpr.jaxpr)


def _of_program(program: core.Jaxpr) -> int:
  return sum(map(_of_equation, program.eqns))


def _of_equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    return _of_product(equation)
  if name == "conv_general_dilated":
    return _of_convolution(equation)
  inner = [_of_program(program) for program in _programs(params)]
  if name == "cond":
    return max(inner)
  times = 1
  if name == "scan":
    times = params["length"]
  elif name == "shard_map":
    times = params["mesh"].size
  return times * sum(inner)


def _programs(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The programs that an equation calls."""
  found = []
  for value in params.values():
    values = value if isinstance(value, (tuple, list)) else (value,)
    for item in values:
      program = getattr(item, "jaxpr", item)
      if hasattr(program, "eqns"):
        found.append(program)
  return found


def _of_product(equation: core.JaxprEqn) -> int:
  (summed, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  length = math.prod(left[axis] for axis in summed)
  return 2 * equation.outvars[0].aval.size * length


def _of_convolution(equation: core.JaxprEqn) -> int:
  params = equation.params
  kernel = equation.invars[1].aval.shape
  _, inputs, *window = params["dimension_numbers"].rhs_spec
  taps = math.prod(kernel[axis] for axis in (inputs, *window))
  # A pixel in so many is no zero.
  gaps = math.prod(params["lhs_dilation"])
  return 2 * equation.outvars[0].aval.size * taps // gaps
