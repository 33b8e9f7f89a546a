"""Keeps snapshots of a run's state in host memory, for rollbacks.

A snapshot starts as a copy on the devices, since the next step donates the
state. The copy is then transferred to the host while training continues. Each
process keeps the shards of its own devices, each shard once. At most one copy
is on the devices at a time.

The ages of the snapshots are spaced evenly on a logarithmic scale
(`snapshot_to_drop`), because a collapse may have begun ten or ten thousand
steps before it is noticed.
"""

import collections
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.parallel import multihost
from bigscale.spec import MonitorSpec, require
from bigscale.train.state import GanState

# A slice of an array: (start, stop) along each axis.
Index = tuple[tuple[int, int], ...]
Shards = dict[Index, np.ndarray]

# Minimum number of snapshots that must fit: a state and the one before it.
_FEWEST = 2
# Maximum age that the snapshots must cover, in snapshot intervals.
REACH = 100

_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
  """A state of the run and the position in its data.

  Attributes:
    step: number of steps done.
    leaves: shards of each leaf of the state, in the order of `jax.tree`.
    data: state of the data stream; None if unknown.
  """

  step: int
  leaves: list[Shards]
  data: dict[str, Any] | None


def snapshot_to_drop(
  steps: Sequence[int], now: int, interval: int
) -> int | None:
  """Returns the step of the snapshot to drop if there is one too many.

  Drops the snapshot whose neighbors in age are closest in ratio, so that ages
  stay evenly spaced on a logarithmic scale. The oldest one goes only when the
  second oldest is beyond `REACH` intervals too. Therefore, with 12 snapshots,
  every age up to `REACH` intervals has a snapshot that is at least as old and
  at most twice as old.

  Args:
    steps: steps of the snapshots, the oldest first.
    now: step of the run.
    interval: number of steps between snapshots.

  Returns:
    The step; None if there are fewer than three snapshots.
  """
  if len(steps) < 3:
    return None
  ages = [(now - step) / interval for step in steps]
  if ages[1] >= REACH:
    return steps[0]
  # 0.5 is half of the interval between two snapshots.
  ratios = {
    (older + 0.5) / (newer + 1.5): step
    for older, step, newer in zip(ages, steps[1:], ages[2:], strict=False)
  }
  return ratios[min(ratios)]


class Ring:
  """Snapshots of the run, the oldest first.

  Attributes:
    bytes_each: size of a snapshot in this process, in bytes.
    slots: maximum number of snapshots, the same on all processes.
    pinned: step of the snapshot that must not be dropped; None if all may be.
  """

  def __init__(self, abstract: GanState, spec: MonitorSpec) -> None:
    """Allocates no memory yet.

    Args:
      abstract: shapes and shardings of the state.
      spec: number of snapshots, and the memory that they may use.

    Raises:
      SpecError: this host's memory is too small for two snapshots.
    """
    self._abstract = abstract
    self._interval = spec.snapshot_interval
    self._kept: collections.deque[Snapshot] = collections.deque()
    self.pinned: int | None = None
    self._on_devices: tuple[int, GanState, dict[str, Any] | None] | None = None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    self._copy: Callable[[GanState], GanState] = jax.jit(
      lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings
    )
    self.bytes_each = sum(map(_bytes_here, jax.tree.leaves(abstract)))
    self.slots = _slots(self.bytes_each, spec)

  def take(self, step: int, state: GanState, data: dict[str, Any]) -> None:
    """Copies a state. It may be donated as soon as this returns.

    Args:
      step: number of steps done.
      state: the state on the devices. Its computation may still be running.
      data: state of the data stream.
    """
    self._settle()
    copied = self._copy(state)
    for leaf in jax.tree.leaves(copied):
      for _, shard in _distinct_shards(leaf):
        shard.copy_to_host_async()
    self._on_devices = (step, copied, data)

  def newest(self, before: int) -> Snapshot | None:
    """Returns the newest finite snapshot of a step below `before`, or None.

    Drops newer snapshots below `before`, because they are not finite.
    """
    self._settle()
    for snapshot in reversed(list(self._kept)):
      if snapshot.step >= before:
        continue
      finite = multihost.all_true("finite snapshot", self._is_finite(snapshot))
      if finite:
        return snapshot
      self._drop(snapshot.step)
    return None

  def restore(self, snapshot: Snapshot) -> GanState:
    """Copies the snapshot's state to the devices and returns it."""
    leaves, structure = jax.tree.flatten(self._abstract)
    return jax.tree.unflatten(
      structure,
      [
        _put(x, parts) for x, parts in zip(leaves, snapshot.leaves, strict=True)
      ],
    )

  def forget_after(self, step: int) -> None:
    """Drops the snapshots of steps after `step`."""
    self._settle()
    while self._kept and self._kept[-1].step > step:
      self._kept.pop()

  @property
  def held(self) -> list[int]:
    """Steps of all snapshots, the oldest first, including one in transfer."""
    steps = [snapshot.step for snapshot in self._kept]
    return steps + ([self._on_devices[0]] if self._on_devices else [])

  def _settle(self) -> None:
    """Waits until the last copy is in host memory."""
    if self._on_devices is None:
      return
    step, copied, data = self._on_devices
    self._on_devices = None
    leaves = [
      {index: np.asarray(shard) for index, shard in _distinct_shards(leaf)}
      for leaf in jax.tree.leaves(copied)
    ]
    self._kept.append(Snapshot(step, leaves, data))
    while len(self._kept) > self.slots:
      steps = [kept.step for kept in self._kept if kept.step != self.pinned]
      drop = snapshot_to_drop(steps, step, self._interval)
      self._drop(min(steps) if drop is None else drop)

  def _drop(self, step: int) -> None:
    # `deque.remove` would compare whole arrays.
    self._kept = collections.deque(k for k in self._kept if k.step != step)

  @staticmethod
  def _is_finite(snapshot: Snapshot) -> bool:
    return all(
      np.isfinite(part).all()
      for parts in snapshot.leaves
      for part in parts.values()
    )


def _distinct_shards(leaf: jax.Array) -> list[tuple[Index, jax.Array]]:
  """Returns the distinct shards of an array in this process."""
  found: dict[Index, jax.Array] = {}
  for shard in leaf.addressable_shards:
    found.setdefault(_index(shard.index, leaf.shape), shard.data)
  return list(found.items())


def _index(index: tuple[slice, ...], shape: tuple[int, ...]) -> Index:
  return tuple(
    part.indices(length)[:2] for part, length in zip(index, shape, strict=True)
  )


def _put(abstract: jax.ShapeDtypeStruct, parts: Shards) -> jax.Array:
  def part(index: tuple[slice, ...]) -> np.ndarray:
    # Copies the shard, because on a CPU JAX may use this memory itself, and the
    # next step donates it.
    return np.array(parts[_index(index, abstract.shape)])

  return jax.make_array_from_callback(abstract.shape, abstract.sharding, part)


def _bytes_here(leaf: jax.ShapeDtypeStruct) -> int:
  """Returns the bytes of an array's distinct shards in this process."""
  indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
  parts = {_index(index, leaf.shape) for index in indices.values()}
  part = np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)
  return len(parts) * int(part) * leaf.dtype.itemsize


def _slots(bytes_each: int, spec: MonitorSpec) -> int:
  """Returns the number of snapshots that fit on every host, at most the spec's.

  Raises:
    SpecError: a host's memory is too small for two snapshots.
  """
  gib = 2**30
  allowed = spec.max_host_gib * gib
  limit = f"monitor.max_host_gib={spec.max_host_gib}"
  if not allowed:
    allowed = free_bytes() / 2
    limit = f"half of the memory that is free here ({allowed / gib:.2f} GiB)"
  # Processes must drop the same snapshots.
  fits = multihost.gather("snapshots", [int(allowed // max(bytes_each, 1))])
  fit = min(multihost.decide("snapshots", lambda: min(fits)), spec.snapshots)
  require(
    fit >= min(_FEWEST, spec.snapshots),
    f"a copy of the state takes {bytes_each / gib:.3g} GiB of this host's "
    f"memory, and {_FEWEST} of them are more than {limit}; split the state "
    "over more hosts (mesh.weights), or set monitor.action to 'log'",
  )
  if fit < spec.snapshots:
    _log.warning(
      "monitor.snapshots=%d copies of %.3g GiB are more than %s: %d are kept, "
      "and a rollback may return further than necessary",
      spec.snapshots,
      bytes_each / gib,
      limit,
      fit,
    )
  return fit


def free_bytes() -> float:
  """Returns the number of bytes that this process may still allocate.

  Returns infinity if the system does not report it.
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
    # Not Linux, or no control group.
    pass
  if not limits:
    pages = os.sysconf_names.get("SC_AVPHYS_PAGES")
    if pages is None:
      return float("inf")
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
  return min(limits)
