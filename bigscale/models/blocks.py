"""Runs the blocks of a network with rematerialization and gathered weights.

A network is a chain of blocks. A block is a top-level entry of the parameters
for which `is_block` is true. Two options change how blocks run. Neither changes
a value or the tree of parameters:

- `remat`: the backward pass recomputes each block from its input, so only the
  inputs of blocks are stored. Sums over devices are stored as well, to avoid
  sending them twice.
- `gather`: a function from some top-level entries of the parameter tree to the
  arrays that computation uses, for sharded parameters. It is called when a
  block runs and again in its backward pass, so memory contains the gathered
  weights of only one block at a time. This requires that no value computed
  from weights alone is stored: products, sums and maxima are stored, and the
  cheap rest is recomputed. Parameters outside blocks are gathered once, when
  the network starts.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from bigscale.types import PyTree

Gather = Callable[[PyTree], PyTree]

_BLOCK = re.compile(r"(stage\d+_)?(block|attention|conv)\d+(_\d+)?|stage\d+")
_MESSAGES = frozenset({"psum", "psum_invariant"})
_COSTLY = _MESSAGES | {
  "conv_general_dilated",
  "dot_general",
  "reduce_max",
  "reduce_sum",
}


def is_block(name: str) -> bool:
  """Returns whether a top-level entry of the parameters is a block."""
  return _BLOCK.fullmatch(name) is not None


def block(
  module: type[nn.Module], name: str, remat: bool, gather: Gather | None
) -> Callable[..., nn.Module]:
  """Returns a block's class with the requested options, for a compact module.

  Args:
    module: class of the block. Values that affect shapes must be attributes,
      because the arguments of its call are arrays.
    name: name of the block.
    remat: see the module docstring.
    gather: see the module docstring.

  Raises:
    ValueError: `is_block` is false for the name.
  """
  if not is_block(name):
    raise ValueError(f"{name!r} is not a block's name; see blocks.is_block")
  if gather is not None:
    module = nn.map_variables(
      module, "params", functools.partial(_gather_block, gather, name)
    )
  if remat:
    module = nn.remat(module, policy=functools.partial(_is_one_of, _MESSAGES))
  elif gather is not None:
    module = nn.remat(module, policy=functools.partial(_is_one_of, _COSTLY))
  return functools.partial(module, name=name)


def gather_rest(gather: Gather | None, params: PyTree) -> PyTree:
  """Returns the parameters with those outside blocks gathered."""
  if gather is None:
    return params
  rest = {name: p for name, p in params.items() if not is_block(name)}
  return {**params, **gather(rest)} if rest else params


def _gather_block(gather: Gather, name: str, variables: PyTree) -> PyTree:
  if "params" not in variables:
    return variables
  whole = gather({name: variables["params"]})[name]
  return {**variables, "params": whole}


def _is_one_of(
  names: frozenset[str], primitive: Any, *_: Any, **__: Any
) -> bool:
  return primitive.name in names
