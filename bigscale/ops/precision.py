"""How exactly products of float32 arrays are computed: decided here alone.

An accelerator multiplies float32 numbers faster where it may round them first.
JAX lets it, unless told otherwise:

| precision | TPU: passes in bfloat16 | GPU with tensor cores | CPU   |
|-----------|-------------------------|-----------------------|-------|
| `highest` | six, as exact as float32 | float32              | exact |
| `high`    | three, from two parts of each operand | TensorFloat-32 | exact |
| `default` | one: operands rounded to 8 bits | TensorFloat-32 | exact |

It is a property of each product in a program, which JAX sets as it traces it
and which the product's gradients of all orders inherit. So layers say nothing
of it; whoever makes a program does, around the functions that it traces. The
networks of a model have the precision of its spec (`models.make`);
everything else is exact. Products of bfloat16 arrays take one pass whatever is
said.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from bigscale.spec import Precision

# The scope of operations that are a network's.
NETWORK = "network"
# The scope of products of a bfloat16 stage that sum to float32.
HALF = "half_precision"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def at(
  precision: Precision | None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """Returns a decorator of functions whose products have this precision.

  Those that name a precision of their own keep it. Gradients inherit it, but
  for the backward function of a `jax.custom_vjp`, which JAX traces after the
  decorated function has returned: it must ask `current` in its forward pass.

  Args:
    precision: of products that name none; None is JAX's own default.
  """

  def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(function)
    def traced(*args: _P.args, **kwargs: _P.kwargs) -> _R:
      with jax.default_matmul_precision(precision):
        return function(*args, **kwargs)

    return traced

  return decorate


def of_network(
  precision: Precision,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """Returns `at(precision)` that also names the operations, by `NETWORK`."""
  return lambda function: at(precision)(jax.named_scope(NETWORK)(function))


def half(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """Decorates products of bfloat16 arrays whose results are float32.

  So are their results' gradients, which would not be rounded at `highest`:
  each of the product's own gradients would take several passes, in a stage
  that is bfloat16 to take one.
  """
  return at("default")(jax.named_scope(HALF)(function))


# Decorates what is never rounded: losses, penalties, statistics, scores.
exact = at("highest")


def current() -> Precision | None:
  """Returns the precision of products that are traced now."""
  return jax.config.jax_default_matmul_precision
