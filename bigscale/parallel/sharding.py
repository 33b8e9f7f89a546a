"""Shardings of the state, and communication of weights and gradients.

An ordered list of (pattern, axes) rules maps paths of the state to shardings;
the first match wins. Leaves with at most one axis need no rule and are
replicated. A leaf with two or more axes that matches no rule is an error, so
that no kernel is replicated by accident. Models do not depend on this module. A
model family with its own parameter names adds rules in its spec,
`sharding_rules`, which have priority.

There are three modes (`MeshSpec.weights`):

- `replicated`: every device has the whole state.
- `zero`: kernels and tables of the state (weights, Adam's moments, the moving
  average) are split over `fsdp`. Spectral norm, the orthogonal penalty, Adam
  and the moving average run on each device's shard. A step gathers the weights
  of its networks once, in their compute dtype, and reduce-scatters gradients.
- `fsdp`: the state is split in the same way. The weights of a block are
  gathered when the block runs, and again in its backward pass.

Kernels are split along output channels, because their power iteration then
sends only vectors (`ops/spectral`).
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.parallel.mesh import AXES
from bigscale.spec.base import SpecError
from bigscale.types import PyTree, Shard

DATA, FSDP = AXES

# (regular expression over "a/b/c", candidate axes). The first axis whose size
# is divisible is split.
Rules = Sequence[tuple[str, tuple[int, ...]]]

_SPLIT: Rules = (
  (r"(.*/)?spectra/.*", ()),
  (r"(.*/)?batch_stats/.*", ()),
  (r"(.*/)?kernel", (-1, -2)),
  # Rows are classes, whose number is often not divisible.
  (r"(.*/)?embedding", (-1, 0)),
  (r"(.*/)?basis", ()),
)
RULES: dict[str, Rules] = {
  "replicated": ((r".*", ()),),
  "zero": _SPLIT,
  "fsdp": _SPLIT,
}


def split_axis(
  path: str, shape: Sequence[int], parts: int, rules: Rules
) -> int | None:
  """Returns the axis along which a leaf is split, or None to replicate it.

  Args:
    path: path of the leaf, "a/b/c".
    shape: shape of the leaf.
    parts: number of shards.
    rules: rules by decreasing priority.

  Raises:
    SpecError: if no rule matches a leaf with two or more axes.
  """
  axes = next(
    (axes for pattern, axes in rules if re.fullmatch(pattern, path)), None
  )
  if axes is None and len(shape) >= 2:
    pattern = rf"(.*/)?{re.escape(path.rpartition('/')[2])}"
    raise SpecError(
      f"no sharding rule matches {path!r} of shape {tuple(shape)}, and only "
      "vectors can be replicated without one. Name it kernel or embedding, or "
      f'add (r"{pattern}", (-1, -2)), to sharding_rules of the model\'s spec '
      "(for a built-in family: to _SPLIT in bigscale/parallel/sharding.py). "
      "The tuple contains the axes along which it may be split, () for none"
    )
  if axes is None or parts == 1:
    return None
  # Skip axes that the leaf does not have, such as axis -2 of a vector.
  for axis in axes:
    if -len(shape) <= axis < len(shape) and shape[axis] % parts == 0:
      return axis % len(shape)
  return None


@dataclasses.dataclass(frozen=True)
class Placement:
  """The placement of a run's arrays on its mesh.

  Attributes:
    mesh: mesh of the run.
    weights: mode, see the module docstring.
    min_split_elements: leaves with fewer elements are replicated.
    rules: rules of the model, with priority over the built-in rules.
  """

  mesh: Mesh
  weights: str = "replicated"
  min_split_elements: int = 0
  rules: Rules = ()

  @property
  def devices(self) -> int:
    """Number of devices in the mesh."""
    return self.mesh.size

  @property
  def splits(self) -> bool:
    """Whether any leaf may be split."""
    return self.weights != "replicated" and self.mesh.shape[FSDP] > 1

  @property
  def uses_gloo(self) -> bool:
    """Whether collectives use Gloo, as they do between CPU processes."""
    devices = list(self.mesh.devices.flat)
    if devices[0].platform != "cpu":
      return False
    return len({device.process_index for device in devices}) > 1

  @property
  def loops_may_send(self) -> bool:
    """Whether loops and branches of a program may contain collectives.

    They may not between CPU processes. XLA starts the collectives of a program
    in the same order on all processes, but considers a loop or a branch done as
    soon as it has started. A later collective that does not depend on it may
    then be sent earlier in one process and later in another, and Gloo matches
    messages only by their order. Unrolled loops avoid this.
    """
    return not self.uses_gloo

  @property
  def may_scatter(self) -> bool:
    """Whether gradients may be reduce-scattered.

    They may not between CPU processes: Gloo sends from a buffer that it also
    writes, so elements of large sums are sometimes wrong (jax-ml/jax#40830).
    Instead, gradients are all-reduced, and each device slices its shard.
    """
    return not self.uses_gloo

  def axes(self, tree: PyTree) -> PyTree:
    """Returns the split axis of each leaf; -1 (not a None leaf) if whole."""
    parts = self.mesh.shape[FSDP]
    rules = RULES[self.weights]
    if self.weights != "replicated":
      rules = (*self.rules, *rules)

    def axis(path: tuple, leaf: jax.Array) -> int:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      found = split_axis(name, leaf.shape, parts, rules)
      small = leaf.size < self.min_split_elements
      return -1 if found is None or small else found

    return jax.tree_util.tree_map_with_path(axis, tree)

  def specs(self, tree: PyTree) -> PyTree:
    """Returns a `PartitionSpec` for each leaf of a state or a subtree."""
    return jax.tree.map(_spec, self.axes(tree))

  def shardings(self, tree: PyTree) -> PyTree:
    """Returns a `NamedSharding` for each leaf of a state or a subtree."""
    return jax.tree.map(
      lambda axis: NamedSharding(self.mesh, _spec(axis)), self.axes(tree)
    )

  def split(self, tree: PyTree) -> PyTree:
    """Constrains arrays to the shardings of the rules; inside jit."""
    return lax.with_sharding_constraint(tree, self.shardings(tree))

  def whole(self, tree: PyTree) -> PyTree:
    """Replicates small arrays on every device; inside jit."""
    return lax.with_sharding_constraint(tree, replicated(self.mesh))

  def by_sample(self, tree: PyTree) -> PyTree:
    """Splits arrays [B, ...] over all devices; inside jit."""
    return lax.with_sharding_constraint(tree, sample_sharding(self.mesh))

  def gather(self, weights: PyTree) -> PyTree:
    """Gathers weights in mode `zero`; inside jit.

    This uses an explicit collective, because XLA could gather before the cast
    to a smaller dtype.
    """
    if self.weights != "zero":
      return weights
    axes = self.axes(weights)
    return self.map_devices(
      lambda tree: jax.tree.map(_gather, tree, axes),
      in_specs=(self.specs(weights),),
      out_specs=P(),
    )(weights)

  def compute_specs(self, weights: PyTree) -> PyTree:
    """Returns the partition specs of the result of `gather`."""
    if self.weights == "fsdp":
      return self.specs(weights)
    return jax.tree.map(lambda leaf: P(), weights)

  def shards(self, weights: PyTree, axes: PyTree) -> PyTree:
    """Wraps split weights in `Shard` for `Network.apply`; inside `map_devices`.

    Args:
      weights: this device's shards of the result of `gather`.
      axes: split axes of the global weights.
    """
    if self.weights != "fsdp":
      return weights
    return jax.tree.map(
      lambda leaf, axis: leaf if axis < 0 else Shard(leaf, axis), weights, axes
    )

  def sum_gradients(self, gradients: PyTree, axes: PyTree) -> PyTree:
    """Sums gradients over all devices; inside `map_devices`.

    Args:
      gradients: gradients in this device's shards of the result of `gather`.
      axes: split axes of the global weights.

    Returns:
      The sums; with `zero` and `fsdp`, this device's shards of them.
    """
    leaves, structure = jax.tree.flatten(gradients)
    whole, parts = {}, {}
    for i, axis in enumerate(jax.tree.leaves(axes)):
      leaf = leaves[i]
      if axis < 0:
        whole[i] = leaf
      elif self.weights == "fsdp":
        # The backward pass of the gather has already summed over fsdp.
        parts[i] = leaf
      elif not self.may_scatter:
        whole[i] = leaf
      else:
        parts[i] = lax.psum_scatter(
          leaf, FSDP, scatter_dimension=axis, tiled=True
        )
    # One all-reduce for all leaves instead of one per leaf.
    sums = lax.psum(whole, AXES) | lax.psum(parts, DATA)
    if self.weights == "zero" and not self.may_scatter:
      for i, axis in enumerate(jax.tree.leaves(axes)):
        sums[i] = sums[i] if axis < 0 else _own_part(sums[i], axis)
    return jax.tree.unflatten(structure, [sums[i] for i in range(len(leaves))])

  def map_devices(
    self, function: object, *, in_specs: PyTree, out_specs: PyTree
  ) -> object:
    """Applies `shard_map` over both axes.

    `check_vma` is off, because batch norm over groups needs
    `axis_index_groups`, which it does not support. Therefore, gradients inside
    `function` are gradients of the sum of the devices' values.
    """
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )


def gather_shards(tree: PyTree, may_scatter: bool = True) -> PyTree:
  """Gathers each `Shard` and keeps other leaves; inside `map_devices`.

  The backward pass reduce-scatters gradients over `fsdp`.

  Args:
    tree: tree whose leaves may be shards.
    may_scatter: see `Placement`.
  """
  gather = _gather if may_scatter else _gather_and_sum
  return jax.tree.map(
    lambda leaf: gather(leaf.value, leaf.axis) if _is_shard(leaf) else leaf,
    tree,
    is_leaf=_is_shard,
  )


def _is_shard(leaf: object) -> bool:
  return isinstance(leaf, Shard)


def _gather(part: jax.Array, axis: int) -> jax.Array:
  if axis < 0:
    return part
  return lax.all_gather(part, FSDP, axis=axis, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather_and_sum(part: jax.Array, axis: int) -> jax.Array:
  """Gathers like `_gather`, with a backward pass without reduce-scatter."""
  return _gather(part, axis)


def _own_part(whole: jax.Array, axis: int) -> jax.Array:
  """Returns this device's shard of an array; inside `map_devices`."""
  length = whole.shape[axis] // lax.axis_size(FSDP)
  start = lax.axis_index(FSDP) * length
  return lax.dynamic_slice_in_dim(whole, start, length, axis)


_gather_and_sum.defvjp(
  lambda part, axis: (_gather(part, axis), None),
  lambda axis, _, whole: (_own_part(lax.psum(whole, FSDP), axis),),
)


def _spec(axis: int) -> P:
  return P() if axis < 0 else P(*[None] * axis, FSDP)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a sharding that splits B of [K, B, ...] over all devices."""
  return NamedSharding(mesh, P(None, AXES))


def sample_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a sharding that splits B of [B, ...] over all devices."""
  return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns a sharding that replicates an array on all devices."""
  return NamedSharding(mesh, P())
