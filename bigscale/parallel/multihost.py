"""What differs between one process and many."""

import jax
from jax.sharding import NamedSharding

from bigscale.types import PyTree


def is_main() -> bool:
  """Whether this process writes files and prints."""
  return jax.process_index() == 0


def to_global(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """This process's rows become its part of arrays over all devices."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), tree
  )
