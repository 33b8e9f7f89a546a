"""Fingerprints of arrays that do not depend on the mesh.

A fingerprint is the sum, modulo 2^32, over all elements of
mix(mix(index + c) ^ bits), where mix is MurmurHash3's finalizer and index is
the row-major index of the element. It is computed for two constants c. The sum
does not depend on the order of its terms, so an array has the same fingerprint
under any sharding. Without the second mixing, two flipped signs would cancel:
2^31 times any odd number is 2^31.

Fingerprints detect accidental damage after they were computed. They are not
cryptographic.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigscale.types import Array, PyTree

_CONSTANTS = (0x9E3779B1, 0x85EBCA77)


class ReplicaError(RuntimeError):
  """Replicas of an array shard differ between devices."""


class _Leaf(NamedTuple):
  """Global shape and sharding of an array; hashable.

  Attributes:
    shape: global shape.
    spec: partition spec.
  """

  shape: tuple[int, ...]
  spec: PartitionSpec


def fingerprints(tree: PyTree) -> dict[str, str]:
  """Returns the fingerprint of each array in a tree.

  Args:
    tree: arrays on one mesh or one device.

  Returns:
    Fingerprints of 16 hexadecimal digits by path.

  Raises:
    ReplicaError: if replicas differ; the message names arrays and devices.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  names = [jax.tree_util.keystr(path) for path, _ in flat]
  arrays = _on_one_mesh([array for _, array in flat])
  mesh = arrays[0].sharding.mesh
  leaves = tuple(_Leaf(a.shape, a.sharding.spec) for a in arrays)
  # For each array, the sums over each device's shard: [*mesh, 2].
  sums = [
    _program(mesh, leaf)(array, _starts(mesh, leaf))
    for array, leaf in zip(arrays, leaves, strict=True)
  ]
  parts = np.asarray(_gather(mesh)(sums))
  parts = parts.reshape(len(arrays), mesh.size, len(_CONSTANTS))
  found, wrong = {}, []
  for n, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
    groups = _replicas(mesh, leaf)
    wrong += [
      f"{name}{list(leaf.shape)} on devices {_ids(mesh, group)}"
      for group in groups
      if len(np.unique(parts[n, group], axis=0)) > 1
    ]
    first = [group[0] for group in groups]
    total = parts[n, first].sum(0, dtype=np.uint32)
    found[name] = "".join(f"{int(part):08x}" for part in total)
  if wrong:
    raise ReplicaError(
      "replicas of the same shard differ between devices: "
      + "; ".join(wrong[:10])
      + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else "")
      + ". A device's memory or arithmetic has failed. Start the run again "
      "from its last checkpoint, without the machine of the deviating device"
    )
  return found


def _on_one_mesh(arrays: Sequence[Any]) -> list[Array]:
  """Replicates arrays of the host or a single device onto the others' mesh."""
  meshes = [
    array.sharding.mesh
    for array in arrays
    if isinstance(getattr(array, "sharding", None), NamedSharding)
  ]
  mesh = meshes[0] if meshes else Mesh(jax.local_devices()[:1], ("all",))
  whole = NamedSharding(mesh, PartitionSpec())
  return [
    array
    if isinstance(getattr(array, "sharding", None), NamedSharding)
    else jax.device_put(array, whole)
    for array in arrays
  ]


def differences(
  before: Mapping[str, str], after: Mapping[str, str]
) -> list[str]:
  """Returns the paths of arrays with different fingerprints."""
  names = sorted(before.keys() | after.keys())
  return [name for name in names if before.get(name) != after.get(name)]


# One program per shape and sharding, which many arrays of a model share. A
# single program for all arrays takes long to compile.
@functools.lru_cache(maxsize=1024)
def _program(mesh: Mesh, leaf: _Leaf) -> Any:
  """Returns `(array, starts) -> uint32 [*mesh, 2]`, sums over each shard."""
  rows = PartitionSpec(*mesh.axis_names)

  def part(array: Array, start: Array) -> Array:
    sums = _sum(array, leaf.shape, start.reshape(-1))
    return sums.reshape((1,) * len(mesh.axis_names) + sums.shape)

  return jax.jit(
    jax.shard_map(
      part,
      mesh=mesh,
      in_specs=(leaf.spec, rows),
      out_specs=rows,
      # Devices with the same shard must be compared, not treated as equal.
      check_vma=False,
    )
  )


@functools.lru_cache(maxsize=8)
def _gather(mesh: Mesh) -> Any:
  """Returns a function that replicates the sums on all devices."""
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.jit(jnp.stack, out_shardings=whole)


def _sum(part: Array, shape: tuple[int, ...], start: Array) -> Array:
  """Returns the sums [2] uint32 of a shard that begins at index `start`."""
  flat_index = jnp.zeros(part.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(part.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis)
    flat_index += (index + start[axis]) * np.uint32(stride % 2**32)
    stride *= shape[axis]
  words = _words(part)
  sums = []
  for constant in _CONSTANTS:
    terms = [
      _mix(_mix(flat_index + np.uint32((constant * (n + 1)) % 2**32)) ^ word)
      for n, word in enumerate(words)
    ]
    sums += [sum(term.sum(dtype=jnp.uint32) for term in terms)]
  return jnp.stack(sums)


def _words(x: Array) -> list[Array]:
  """Returns the bits of each element as uint32 arrays of the shape of `x`."""
  if x.dtype == jnp.bool_:
    return [x.astype(jnp.uint32)]
  size = x.dtype.itemsize
  if size < 4:
    unsigned = {1: jnp.uint8, 2: jnp.uint16}[size]
    return [jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)]
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  return [bits] if size == 4 else [bits[..., n] for n in range(size // 4)]


def _mix(x: Array) -> Array:
  """Applies MurmurHash3's 32-bit finalizer (Appleby 2011, public domain)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def _indices(mesh: Mesh, leaf: _Leaf) -> list[tuple[slice, ...]]:
  """Returns the index of each device's shard, in mesh order."""
  where = NamedSharding(mesh, leaf.spec).devices_indices_map(leaf.shape)
  return [where[device] for device in mesh.devices.flat]


@functools.lru_cache(maxsize=1024)
def _starts(mesh: Mesh, leaf: _Leaf) -> Any:
  """Returns [*mesh, D] uint32: the first index of each device's shard."""
  rows = [
    [index[axis].indices(size)[0] for axis, size in enumerate(leaf.shape)]
    for index in _indices(mesh, leaf)
  ]
  starts = np.array(rows, np.uint64).astype(np.uint32)
  starts = starts.reshape(*mesh.devices.shape, len(leaf.shape))
  sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
  return jax.make_array_from_callback(
    starts.shape, sharding, lambda index: starts[index]
  )


def _replicas(mesh: Mesh, leaf: _Leaf) -> list[list[int]]:
  """Returns groups of mesh positions that hold the same shard."""
  groups: dict[Any, list[int]] = {}
  for position, index in enumerate(_indices(mesh, leaf)):
    key = tuple(
      part.indices(size) for part, size in zip(index, leaf.shape, strict=True)
    )
    groups.setdefault(key, []).append(position)
  return list(groups.values())


def _ids(mesh: Mesh, positions: Sequence[int]) -> str:
  devices = [mesh.devices.flat[position] for position in positions]
  return ", ".join(f"{d.id} (process {d.process_index})" for d in devices)
