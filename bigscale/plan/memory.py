"""Reads the memory of a compiled step on one device."""

import re
from typing import Any, NamedTuple

import jax
import numpy as np

from bigscale.types import PyTree

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"([\d.]+)([KMGT]?)i?B?"
# Both forms of the TPU compiler's out-of-memory message.
_MESSAGES = (
  re.compile(
    rf"\({_AMOUNT}\) exceeds available HBM \({_AMOUNT}\)", re.IGNORECASE
  ),
  re.compile(rf"Used {_AMOUNT} of {_AMOUNT} hbm", re.IGNORECASE),
)


class Memory(NamedTuple):
  """Bytes of HBM on one device.

  Attributes:
    peak: peak memory. For a program that does not fit, the memory that the
      compiler requested.
    argument: state and batch.
    output: results, including `alias`.
    alias: results that overwrite donated arguments.
    temporary: all other buffers.
    program: code of the program.
  """

  peak: int
  argument: int | None = None
  output: int | None = None
  alias: int | None = None
  temporary: int | None = None
  program: int | None = None


class OutOfMemory(NamedTuple):
  """Bytes needed and bytes available, according to the compiler's message."""

  needed: int
  available: int


def of_compiled(compiled: jax.stages.Compiled) -> Memory:
  """Returns the memory of a compiled program."""
  stats: Any = compiled.memory_analysis()
  return Memory(
    peak=stats.peak_memory_in_bytes,
    argument=stats.argument_size_in_bytes,
    output=stats.output_size_in_bytes,
    alias=stats.alias_size_in_bytes,
    temporary=stats.temp_size_in_bytes,
    program=stats.generated_code_size_in_bytes,
  )


def of_refusal(message: str) -> OutOfMemory | None:
  """Parses an out-of-memory message; returns None for other messages."""
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  for pattern in _MESSAGES:
    found = pattern.search(message)
    if found:
      needed, unit, available, other = found.groups()
      return OutOfMemory(_bytes(needed, unit), _bytes(available, other))
  return None


def _bytes(amount: str, unit: str) -> int:
  return int(float(amount) * _UNITS[unit.upper()])


def bytes_per_device(tree: PyTree) -> int:
  """Returns the bytes per device of abstract arrays with shardings."""

  def size(leaf: Any) -> int:
    shape = leaf.shape
    if getattr(leaf, "sharding", None) is not None:
      shape = leaf.sharding.shard_shape(shape)
    # A typed PRNG key has no numpy dtype.
    return int(np.prod(shape)) * getattr(leaf.dtype, "itemsize", 4)

  return sum(size(leaf) for leaf in jax.tree.leaves(tree))
