"""Emulates a TPU's rounding of float32 products on a CPU.

`rounded(function)` evaluates the function's jaxpr and computes each convolution
and matrix product with the TPU meaning of its `precision`. At `default`, both
operands are rounded to bfloat16. At `high`, each operand is the sum of two
bfloat16 numbers, and the smallest of the four products is omitted. At
`highest`, operands are not rounded. Sums are float32. The jaxpr is what a TPU
compiler would receive, including all derivatives.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

_PRODUCTS = ("dot_general", "conv_general_dilated")
# Primitives that call a program once, and the parameter that contains it.
_CALLS = {
  "checkpoint": "jaxpr",
  "closed_call": "call_jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "jit": "jaxpr",
  "pjit": "jaxpr",
  "remat2": "jaxpr",
}


def rounded(function):
  """Returns `function` with float32 products rounded as on a TPU."""

  @functools.wraps(function)
  def emulated(*args):
    program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    results = _run(program, *jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), results)

  return emulated


def precision_of(equation) -> str:
  """Returns the precision of the operand that is rounded more."""
  pair = equation.params["precision"] or (lax.Precision.DEFAULT,)
  return str(max(pair, key=list(lax.Precision).index)).lower()


def products(program, scope=""):
  """Returns the float32 products in a program: {(scope, precision)}."""
  found = set()
  for equation in getattr(program, "jaxpr", program).eqns:
    where = f"{scope}/{equation.source_info.name_stack}"
    if equation.primitive.name in _PRODUCTS and _is_float32(equation):
      found.add((where, precision_of(equation)))
    found |= _inside(equation, where)
  return found


def _inside(equation, where=""):
  found = set()
  for value in equation.params.values():
    for inner in value if isinstance(value, tuple) else (value,):
      if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
        found |= products(inner, where)
  return found


def _is_float32(equation) -> bool:
  return any(x.aval.dtype == jnp.float32 for x in equation.invars)


def _run(program, *args):
  """Evaluates a jaxpr or closed jaxpr."""
  consts = getattr(program, "consts", ())
  program = getattr(program, "jaxpr", program)
  known = dict(zip(program.constvars, consts, strict=True))
  known |= dict(zip(program.invars, args, strict=True))

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else known[atom]

  for equation in program.eqns:
    results = _equation(equation, *map(read, equation.invars))
    known |= dict(zip(equation.outvars, results, strict=True))
  return tuple(read(atom) for atom in program.outvars)


def _equation(equation, *args):
  name, params = equation.primitive.name, equation.params
  if name in _PRODUCTS and _is_float32(equation):
    return [_product(equation, *args)]
  if name in _CALLS:
    return _run(params[_CALLS[name]], *args)
  if name in _NESTED:
    return _NESTED[name](params, *args)
  if _inside(equation):
    raise NotImplementedError(f"{name} holds products; say how it is run")
  results = equation.primitive.bind(*args, **params)
  return results if equation.primitive.multiple_results else [results]


def _product(equation, x, y):
  params = dict(equation.params, precision=(lax.Precision.HIGHEST,) * 2)
  multiply = functools.partial(equation.primitive.bind, **params)
  passes = {
    "default": ((0, 0),),
    "high": ((0, 0), (0, 1), (1, 0)),
    "highest": (),
  }[precision_of(equation)]
  if not passes:
    return multiply(x, y)
  xs, ys = _parts(x), _parts(y)
  found = [
    multiply(xs[i], ys[j]) for i, j in passes if i < len(xs) and j < len(ys)
  ]
  return functools.reduce(operator.add, found)


def _parts(x):
  """Splits float32 into two bfloat16 numbers; other dtypes are not split."""
  if x.dtype != jnp.float32:
    return (x,)
  # Not a cast to bfloat16 and back, which XLA may remove.
  first = lax.reduce_precision(x, 8, 7)
  return first, lax.reduce_precision(x - first, 8, 7)


def _scan(params, *args):
  consts, carry, xs = _split(args, params["num_consts"], params["num_carry"])

  def body(carry, x):
    results = _run(params["jaxpr"], *consts, *carry, *x)
    return results[: len(carry)], results[len(carry) :]

  carry, ys = lax.scan(
    body,
    tuple(carry),
    tuple(xs),
    params["length"],
    params["reverse"],
    params["unroll"],
  )
  return [*carry, *ys]


def _while(params, *args):
  of_condition, of_body, start = _split(
    args, params["cond_nconsts"], params["body_nconsts"]
  )
  return lax.while_loop(
    lambda carry: _run(params["cond_jaxpr"], *of_condition, *carry)[0],
    lambda carry: _run(params["body_jaxpr"], *of_body, *carry),
    tuple(start),
  )


def _cond(params, index, *args):
  branches = [functools.partial(_run, one) for one in params["branches"]]
  return lax.switch(index, branches, *args)


def _shard_map(params, *args):
  names = ("mesh", "in_specs", "out_specs", "check_vma")
  return jax.shard_map(
    functools.partial(_run, params["jaxpr"]),
    **{name: params[name] for name in names},
  )(*args)


_NESTED = {
  "cond": _cond,
  "scan": _scan,
  "shard_map": _shard_map,
  "while": _while,
}


def _split(values, *lengths):
  found, start = [], 0
  for length in lengths:
    found.append(values[start : start + length])
    start += length
  return [*found, values[start:]]
