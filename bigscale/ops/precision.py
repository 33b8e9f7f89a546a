"""Precision of products of float32 arrays.

An accelerator multiplies float32 numbers faster if it may round them first. JAX
allows this by default:

| precision | TPU: passes in bfloat16 | GPU with tensor cores | CPU   |
|-----------|-------------------------|-----------------------|-------|
| `highest` | six, as exact as float32 | float32              | exact |
| `high`    | three, from two parts of each operand | TensorFloat-32 | exact |
| `default` | one: operands rounded to 8 bits | TensorFloat-32 | exact |

Precision is a property of each product in a program. JAX sets it when it traces
the product, and gradients of all orders inherit it. Therefore layers do not set
a precision. The code that builds a program sets it around the functions it
traces. A model's networks have the precision of its spec (`models.make`);
everything else is exact. Products of bfloat16 arrays always take one pass.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from bigscale.spec import Precision

# Scope of the operations of networks.
NETWORK = "network"
# Scope of products in bfloat16 stages that accumulate to float32.
HALF = "half_precision"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def at(
  precision: Precision | None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """Returns a decorator that sets the precision of a function's products.

  Products that state their own precision keep it. Gradients inherit the
  precision, except in the backward function of a `jax.custom_vjp`, which JAX
  traces after the decorated function has returned. Such a function must read
  `current` in its forward pass.

  Args:
    precision: precision of products that state none; None is JAX's default.
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
  """Returns `at(precision)` that also adds the scope `NETWORK`."""
  return lambda function: at(precision)(jax.named_scope(NETWORK)(function))


def half(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """Decorates products of bfloat16 arrays whose results are float32.

  The gradients of the results are float32 too. At `highest`, each gradient
  product would therefore take several passes, although a bfloat16 stage should
  take one.
  """
  return at("default")(jax.named_scope(HALF)(function))


# Decorates computations that are never rounded: losses, penalties, statistics
# and scores.
exact = at("highest")


def current() -> Precision | None:
  """Returns the precision of products that are being traced."""
  return jax.config.jax_default_matmul_precision
