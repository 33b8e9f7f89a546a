"""The last states of a run, in host memory: where a rollback goes back to.

A snapshot starts as a copy on the devices, since the next step's donation
takes the state away, and flows to the host while steps go on. Each process
keeps what its own devices hold, every part once. At most one copy is on the
devices at a time.
"""

import collections
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.parallel import multihost
from bigscale.spec import MonitorSpec, require
from bigscale.train.state import GanState

# Of one array: (start, stop) along every axis.
Index = tuple[tuple[int, int], ...]
Parts = dict[Index, np.ndarray]


class Snapshot(NamedTuple):
  """A state and what went with it.

  Attributes:
    step: steps done.
    leaves: of the state in the order of `jax.tree`, by part.
    data: state of the stream, None where it is not known.
  """

  step: int
  leaves: list[Parts]
  data: dict[str, Any] | None


class Ring:
  """The newest snapshots, oldest first."""

  def __init__(self, abstract: GanState, spec: MonitorSpec) -> None:
    """Takes no memory yet.

    Args:
      abstract: shapes and shardings of the state.
      spec: how many.

    Raises:
      SpecError: this host has not the memory.
    """
    self._abstract = abstract
    self._spec = spec
    self._kept: collections.deque[Snapshot] = collections.deque()
    self._on_devices: tuple[int, GanState, dict[str, Any] | None] | None = None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    self._copy: Callable[[GanState], GanState] = jax.jit(
      lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings
    )
    self.bytes_each = sum(map(_bytes_here, jax.tree.leaves(abstract)))
    _check_memory(self.bytes_each, spec)

  def take(self, step: int, state: GanState, data: dict[str, Any]) -> None:
    """Copies a state; it may be donated as soon as this returns.

    Args:
      step: steps done.
      state: on the devices, perhaps still being computed.
      data: state of the stream.
    """
    self._settle()
    copied = self._copy(state)
    for leaf in jax.tree.leaves(copied):
      for _, shard in _distinct_shards(leaf):
        shard.copy_to_host_async()
    self._on_devices = (step, copied, data)

  def newest(self, before: int) -> Snapshot | None:
    """The newest one of a step below `before` whose numbers are all finite.

    Later ones with lost numbers are dropped: nobody can go back to them.
    """
    self._settle()
    for snapshot in reversed(list(self._kept)):
      if snapshot.step >= before:
        continue
      finite = multihost.all_true("finite snapshot", self._is_finite(snapshot))
      if finite:
        return snapshot
      # Not by equality: arrays have none.
      self._kept = collections.deque(
        kept for kept in self._kept if kept is not snapshot
      )
    return None

  def restore(self, snapshot: Snapshot) -> GanState:
    """The state, on the devices again; the snapshot stays as it is."""
    leaves, structure = jax.tree.flatten(self._abstract)
    return jax.tree.unflatten(
      structure,
      [
        _put(x, parts) for x, parts in zip(leaves, snapshot.leaves, strict=True)
      ],
    )

  def forget_after(self, step: int) -> None:
    """Drops the snapshots of later steps."""
    self._settle()
    while self._kept and self._kept[-1].step > step:
      self._kept.pop()

  @property
  def held(self) -> list[int]:
    """Steps of the snapshots, oldest first, and of one on its way."""
    steps = [snapshot.step for snapshot in self._kept]
    return steps + ([self._on_devices[0]] if self._on_devices else [])

  def _settle(self) -> None:
    """Waits until the last copy has reached the host."""
    if self._on_devices is None:
      return
    step, copied, data = self._on_devices
    self._on_devices = None
    leaves = [
      {index: np.asarray(shard) for index, shard in _distinct_shards(leaf)}
      for leaf in jax.tree.leaves(copied)
    ]
    while len(self._kept) >= self._spec.snapshots:
      self._kept.popleft()
    self._kept.append(Snapshot(step, leaves, data))

  @staticmethod
  def _is_finite(snapshot: Snapshot) -> bool:
    return all(
      np.isfinite(part).all()
      for parts in snapshot.leaves
      for part in parts.values()
    )


def _distinct_shards(leaf: jax.Array) -> list[tuple[Index, jax.Array]]:
  """This process's parts of an array, every part once."""
  found: dict[Index, jax.Array] = {}
  for shard in leaf.addressable_shards:
    found.setdefault(_index(shard.index, leaf.shape), shard.data)
  return list(found.items())


def _index(index: tuple[slice, ...], shape: tuple[int, ...]) -> Index:
  return tuple(
    part.indices(length)[:2] for part, length in zip(index, shape, strict=True)
  )


def _put(abstract: jax.ShapeDtypeStruct, parts: Parts) -> jax.Array:
  def part(index: tuple[slice, ...]) -> np.ndarray:
    # A copy: on CPU JAX may take the memory itself, and a step donates it.
    return np.array(parts[_index(index, abstract.shape)])

  return jax.make_array_from_callback(abstract.shape, abstract.sharding, part)


def _bytes_here(leaf: jax.ShapeDtypeStruct) -> int:
  """Of the distinct parts of an array on this process's devices."""
  indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
  parts = {_index(index, leaf.shape) for index in indices.values()}
  part = np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)
  return len(parts) * int(part) * leaf.dtype.itemsize


def _check_memory(bytes_each: int, spec: MonitorSpec) -> None:
  gib = 2**30
  needed = bytes_each * spec.snapshots
  allowed = spec.max_host_gib * gib
  whose = f"monitor.max_host_gib={spec.max_host_gib}"
  if not allowed:
    allowed = free_bytes() / 2
    whose = f"half of the memory that is free here ({allowed / gib:.2f} GiB)"
  fit = int(allowed // max(bytes_each, 1))
  remedy = (
    f"set monitor.snapshots to {fit} or less"
    if fit
    else (
      "split the state over more hosts (mesh.weights), or set "
      "monitor.action to 'log'"
    )
  )
  require(
    needed <= allowed,
    f"monitor.snapshots={spec.snapshots} copies of {bytes_each / gib:.3g} GiB "
    f"take {needed / gib:.3g} GiB of this host's memory, more than {whose}; "
    f"{remedy}",
  )


def free_bytes() -> float:
  """Memory that this process may still take, by the system's account.

  Infinite where the system keeps none that we can read.
  """
  limits = []
  try:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
      if line.startswith("MemAvailable:"):
        limits.append(int(line.split()[1]) * 1024.0)
    group = pathlib.Path("/sys/fs/cgroup")
    most = (group / "memory.max").read_text().strip()
    if most != "max":
      used = int((group / "memory.current").read_text())
      limits.append(float(int(most) - used))
  except (OSError, ValueError):
    # Another system, or no control group.
    pass
  if not limits:
    pages = os.sysconf_names.get("SC_AVPHYS_PAGES")
    if pages is None:
      return float("inf")
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
  return min(limits)
