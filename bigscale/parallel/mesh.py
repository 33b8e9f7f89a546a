"""The mesh: axes `data` (replicas) and `fsdp` (devices that share one)."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from bigscale.spec import MeshSpec, SpecError, require

AXES = ("data", "fsdp")


def make_mesh(
  spec: MeshSpec, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Arranges devices.

  Args:
    spec: sizes of the axes.
    devices: all of JAX's where None.

  Returns:
    A mesh whose axes are typed Auto: `jax.make_mesh` would make them Explicit,
    on which a flax.linen step with R1 does not trace.

  Raises:
    SpecError: the axes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = len(devices)
  data = spec.data
  if data == -1:
    require(
      count % spec.fsdp == 0,
      f"mesh.fsdp={spec.fsdp} does not divide {count} devices; use a divisor",
    )
    data = count // spec.fsdp
  if data * spec.fsdp > count:
    raise SpecError(
      f"mesh.data={data} x mesh.fsdp={spec.fsdp} needs {data * spec.fsdp} "
      f"devices and there are {count}; use mesh.data=-1 to take what there is"
    )
  grid = np.array(devices[: data * spec.fsdp]).reshape(data, spec.fsdp)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(global_batch_size: int, mesh: Mesh) -> None:
  """Raises `SpecError` unless every device gets as many samples."""
  devices = mesh.size
  if global_batch_size % devices:
    lower = global_batch_size // devices * devices
    choices = [n for n in (lower, lower + devices) if n]
    raise SpecError(
      f"global_batch_size={global_batch_size} is not divisible by {devices} "
      f"devices; use {' or '.join(map(str, choices))}"
    )
