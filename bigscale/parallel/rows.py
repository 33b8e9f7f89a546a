"""Maps rows of a batch to processes."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding

from bigscale.spec import require
from bigscale.types import PyTree


@functools.lru_cache(maxsize=16)
def local_rows(
  sharding: NamedSharding, batch_size: int, process_index: int | None = None
) -> np.ndarray:
  """Returns the sorted indices of the rows on a process's devices.

  They are contiguous only if the process's devices are neighbors in the mesh,
  which is generally not the case for a mesh that follows the torus.

  Args:
    sharding: sharding of arrays [K, batch_size, ...], rows over all devices.
    batch_size: number of rows over all processes.
    process_index: index of the process; None means this process.

  Raises:
    SpecError: if the process has no device in the mesh.
  """
  if process_index is None:
    process_index = jax.process_index()
  where = sharding.devices_indices_map((1, batch_size))
  parts = {
    index[1].indices(batch_size)[:2]
    for device, index in where.items()
    if device.process_index == process_index
  }
  require(
    bool(parts),
    f"process {process_index} has no device in the mesh "
    f"{dict(sharding.mesh.shape)}; start fewer processes",
  )
  return np.concatenate([np.arange(*part) for part in sorted(parts)])


def to_global(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Builds global arrays from the rows of each process.

  Args:
    tree: arrays [K, rows, ...] with this process's rows, as in `local_rows`.
    sharding: sharding of the global arrays [K, batch_size, ...], rows over all
      devices.
  """
  share = sharding.num_devices // len(sharding.addressable_devices)

  def spread(x: np.ndarray) -> jax.Array:
    shape = (x.shape[0], x.shape[1] * share, *x.shape[2:])
    rows = local_rows(sharding, shape[1])

    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[1].indices(shape[1])
      first = np.searchsorted(rows, start)
      return x[:, first : first + stop - start]

    return jax.make_array_from_callback(shape, sharding, part)

  return jax.tree.map(spread, tree)
