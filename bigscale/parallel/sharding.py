"""Which device holds what, and how weights travel between devices.

An ordered list of (pattern, axes) over the paths of the state decides; the
first match wins. A leaf of one axis at most needs no rule and stays whole. One
of two or more that no rule matches, a matrix or a kernel, is an error rather
than a silently replicated one. Models know nothing of this; a family whose
weights have names of their own gives rules in its spec, `sharding_rules`, which
come before ours.

Three modes (`MeshSpec.weights`):

- `replicated`: every device holds the whole state.
- `zero`: kernels and tables of the state (weights, Adam's moments, the moving
  average) are split over `fsdp`; spectral norm, the orthogonal term, Adam and
  the average work on a device's own part. A step gathers what its networks
  need whole, once, in the dtype they compute in, and sums gradients straight
  into parts.
- `fsdp`: the state is split in the same way, but a block's weights are
  gathered only while the block runs, and again in the backward pass.

A kernel is split along its output channels: the power iteration of a kernel
split so sends vectors only (`ops/spectral`).
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

# (regular expression over "a/b/c", axes to split, the first that divides).
Rules = Sequence[tuple[str, tuple[int, ...]]]

_SPLIT: Rules = (
  (r"(.*/)?spectra/.*", ()),
  (r"(.*/)?batch_stats/.*", ()),
  (r"(.*/)?kernel", (-1, -2)),
  # Rows are classes, of which there need not be a round number.
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
  """The axis along which a leaf is split, counted from 0; None leaves it whole.

  Args:
    path: "a/b/c".
    shape: of the leaf.
    parts: into how many.
    rules: in order.

  Raises:
    SpecError: no rule matches a leaf of two axes or more.
  """
  axes = next(
    (axes for pattern, axes in rules if re.fullmatch(pattern, path)), None
  )
  if axes is None and len(shape) >= 2:
    pattern = rf"(.*/)?{re.escape(path.rpartition('/')[2])}"
    raise SpecError(
      f"no sharding rule matches {path!r} of shape {tuple(shape)}, and only "
      "vectors stay whole without one; name it kernel or embedding, or add "
      f'(r"{pattern}", (-1, -2)), to sharding_rules of the model\'s spec (of a '
      "family of ours: to _SPLIT in bigscale/parallel/sharding.py): the axes "
      "along which it may be split, () for none"
    )
  if axes is None or parts == 1:
    return None
  # One axis short of the front: a vector has no second axis from the end.
  for axis in axes:
    if -len(shape) <= axis < len(shape) and shape[axis] % parts == 0:
      return axis % len(shape)
  return None


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where a run's arrays live, and how they get where they are used.

  Attributes:
    mesh: of the run.
    weights: mode, see this module.
    min_split_elements: smaller leaves stay whole.
    rules: of the model, before ours.
  """

  mesh: Mesh
  weights: str = "replicated"
  min_split_elements: int = 0
  rules: Rules = ()

  @property
  def devices(self) -> int:
    """How many share a batch."""
    return self.mesh.size

  @property
  def splits(self) -> bool:
    """Whether any leaf may be split."""
    return self.weights != "replicated" and self.mesh.shape[FSDP] > 1

  @property
  def uses_gloo(self) -> bool:
    """Whether collectives travel by Gloo: between CPU processes alone."""
    devices = list(self.mesh.devices.flat)
    if devices[0].platform != "cpu":
      return False
    return len({device.process_index for device in devices}) > 1

  @property
  def loops_may_send(self) -> bool:
    """Whether loops and branches of a program may hold collectives.

    Between CPU processes they may not. XLA starts a program's collectives in
    one order everywhere, but takes a loop or a branch for done as soon as it
    has begun. What comes next, and does not need its result, may then send
    first in one process and last in another, and Gloo matches messages by
    their order alone. Unrolled, each is one more collective of the program.
    """
    return not self.uses_gloo

  @property
  def may_scatter(self) -> bool:
    """Whether sums may be scattered by one collective.

    Not between CPU processes: Gloo sends from a buffer that it also writes, and
    elements of a large sum come out wrong now and then (jax-ml/jax#40830).
    There everything is summed everywhere, and a device takes its part.
    """
    return not self.uses_gloo

  def axes(self, tree: PyTree) -> PyTree:
    """The split axis of every leaf, -1 for none (None is no leaf)."""
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
    """A `PartitionSpec` for every leaf of a state or a part of it."""
    return jax.tree.map(_spec, self.axes(tree))

  def shardings(self, tree: PyTree) -> PyTree:
    """A `NamedSharding` for every leaf of a state or a part of it."""
    return jax.tree.map(
      lambda axis: NamedSharding(self.mesh, _spec(axis)), self.axes(tree)
    )

  def split(self, tree: PyTree) -> PyTree:
    """Inside jit: these arrays as the rules have them."""
    return lax.with_sharding_constraint(tree, self.shardings(tree))

  def whole(self, tree: PyTree) -> PyTree:
    """Inside jit: these arrays, small ones, on every device."""
    return lax.with_sharding_constraint(tree, replicated(self.mesh))

  def by_sample(self, tree: PyTree) -> PyTree:
    """Inside jit: arrays [B, ...] over all devices."""
    return lax.with_sharding_constraint(tree, sample_sharding(self.mesh))

  def gather(self, weights: PyTree) -> PyTree:
    """Inside jit: weights as the sharded gradient takes them.

    With `zero` they are gathered here, by a collective of our own: XLA would
    be free to gather before the cast to a smaller dtype.
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
    """The specs of `gather`'s result."""
    if self.weights == "fsdp":
      return self.specs(weights)
    return jax.tree.map(lambda leaf: P(), weights)

  def shards(self, weights: PyTree, axes: PyTree) -> PyTree:
    """Inside `map_devices`: weights as `Network.apply` takes them.

    Args:
      weights: a device's part of what `gather` returned.
      axes: of the whole ones.
    """
    if self.weights != "fsdp":
      return weights
    return jax.tree.map(
      lambda leaf, axis: leaf if axis < 0 else Shard(leaf, axis), weights, axes
    )

  def sum_gradients(self, gradients: PyTree, axes: PyTree) -> PyTree:
    """Inside `map_devices`: sums over all devices, each leaf once.

    Args:
      gradients: of a device's part of what `gather` returned.
      axes: of the whole weights.

    Returns:
      With `zero` and `fsdp` a device's own part of the sums.
    """
    leaves, structure = jax.tree.flatten(gradients)
    whole, parts = {}, {}
    for i, axis in enumerate(jax.tree.leaves(axes)):
      leaf = leaves[i]
      if axis < 0:
        whole[i] = leaf
      elif self.weights == "fsdp":
        # The gather's own backward pass has summed over fsdp.
        parts[i] = leaf
      elif not self.may_scatter:
        whole[i] = leaf
      else:
        parts[i] = lax.psum_scatter(
          leaf, FSDP, scatter_dimension=axis, tiled=True
        )
    # One operation for all that are alike, not one for each.
    sums = lax.psum(whole, AXES) | lax.psum(parts, DATA)
    if self.weights == "zero" and not self.may_scatter:
      for i, axis in enumerate(jax.tree.leaves(axes)):
        sums[i] = sums[i] if axis < 0 else _own_part(sums[i], axis)
    return jax.tree.unflatten(structure, [sums[i] for i in range(len(leaves))])

  def map_devices(
    self, function: object, *, in_specs: PyTree, out_specs: PyTree
  ) -> object:
    """`shard_map` over both axes.

    Replication is not tracked (`check_vma`): batch norm over groups needs
    `axis_index_groups`, which tracking does not know. Gradients inside are
    therefore those of the sum over devices of what each differentiates.
    """
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )


def gather_shards(tree: PyTree, may_scatter: bool = True) -> PyTree:
  """Inside `map_devices`: every `Shard` made whole, other leaves as they are.

  Its backward pass sums gradients over `fsdp` into shards.

  Args:
    tree: with shards in it.
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
  """As `_gather`, with a backward pass that does not scatter."""
  return _gather(part, axis)


def _own_part(whole: jax.Array, axis: int) -> jax.Array:
  """Returns this device's part of an array; inside `map_devices`."""
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
  """Of [K, B, ...]: samples over all devices."""
  return NamedSharding(mesh, P(None, AXES))


def sample_sharding(mesh: Mesh) -> NamedSharding:
  """Of [B, ...]: samples over all devices."""
  return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, P())
