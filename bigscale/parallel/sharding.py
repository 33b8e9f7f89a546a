"""Which device holds what.

An ordered list of (pattern, rule) over the paths of the state decides; the
first match wins, and a leaf that none matches is an error rather than a
silently replicated one. Models know nothing of this.
"""

import re
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.parallel.mesh import AXES
from bigscale.types import PyTree

Rules = Sequence[tuple[str, P]]

# By `MeshSpec.weights`.
RULES: dict[str, Rules] = {"replicated": ((".*", P()),)}


def tree_shardings(tree: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
  """A `NamedSharding` for every leaf.

  Args:
    tree: arrays or shapes.
    mesh: to shard over.
    rules: (regular expression over "a/b/c", partition), in order.

  Raises:
    ValueError: no rule matches a leaf.
  """

  def shard(path: tuple, leaf: object) -> NamedSharding:
    del leaf
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, partition in rules:
      if re.fullmatch(pattern, name):
        return NamedSharding(mesh, partition)
    raise ValueError(
      f"no sharding rule matches {name!r}; add one to the {len(rules)} rules"
    )

  return jax.tree_util.tree_map_with_path(shard, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Of [K, B, ...]: samples over all devices."""
  return NamedSharding(mesh, P(None, AXES))


def sample_sharding(mesh: Mesh) -> NamedSharding:
  """Of [B, ...]: samples over all devices."""
  return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, P())
