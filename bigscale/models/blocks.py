"""How the blocks of a network run: what they keep and where weights come from.

A network is a chain of blocks, the top-level entries of its parameters that
`is_block` names. Two things may be asked of it, neither of which changes a
value or the tree of parameters:

- `remat`: the backward pass computes each block again from its input, so that
  only the inputs of blocks are kept (and sums over devices, not to send them
  twice).
- a gather: a function from a part of the parameter tree (some of its top-level
  entries, whole) to the arrays that computation uses, for parameters that are
  split over devices. It is called as a block runs, and again in its backward
  pass, so that the whole weights of one block at a time are in memory. For
  that nothing may be kept that is made of weights alone: of what a block
  computes, products, sums and maxima are kept, the cheap rest is computed
  again. What no block owns is gathered once, at the network's start.
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
  """Whether a top-level entry of the parameters belongs to a block."""
  return _BLOCK.fullmatch(name) is not None


def block(
  module: type[nn.Module], name: str, remat: bool, gather: Gather | None
) -> Callable[..., nn.Module]:
  """The class of a block that runs as asked; to be called in a compact module.

  Args:
    module: its class. Whatever shapes its computation must be an attribute:
      arguments of its call are arrays.
    name: of the block.
    remat: see this module.
    gather: see this module.

  Raises:
    ValueError: `is_block` does not know the name.
  """
  if not is_block(name):
    raise ValueError(f"{name!r} names no block; see blocks.is_block")
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
  """A network's parameters, those gathered that no block will gather."""
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
