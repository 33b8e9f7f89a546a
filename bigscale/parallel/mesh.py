"""The device mesh with axes `data` (replicas) and `fsdp` (shards of a replica).

Slices are connected by a data-center network. They are ordered along `data`, so
only communication over `data` crosses that network. Within a slice, the devices
of an `fsdp` group are neighbors in the torus. Therefore, a host's devices (2 x
2 chips) are not contiguous in the batch: see `rows.local_rows`.
"""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bigscale.spec import MeshSpec, SpecError, require

AXES = ("data", "fsdp")


def make_mesh(
  spec: MeshSpec, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Builds the mesh.

  Args:
    spec: sizes of the axes.
    devices: devices, which may belong to a topology description; None means all
      JAX devices.

  Returns:
    A mesh with Auto axes. `jax.make_mesh` would make them Explicit, and a
    flax.linen step with R1 cannot be traced on Explicit axes.

  Raises:
    SpecError: if the product of the axis sizes is not the number of devices, or
      if the axes do not fit the slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  slices = _slices(spec, devices)
  data = _data_size(spec, len(devices), len(slices))
  if data * spec.fsdp < len(devices):
    _check_some_left_out(spec, devices, slices)
    grid = np.array(devices[: data * spec.fsdp]).reshape(data, spec.fsdp)
  else:
    shape = (data // len(slices), spec.fsdp)
    grid = np.concatenate([_arrange(part, shape) for part in slices])
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(global_batch_size: int, mesh: Mesh) -> None:
  """Raises `SpecError` unless the batch splits evenly over the devices."""
  devices = mesh.size
  if global_batch_size % devices:
    lower = global_batch_size // devices * devices
    choices = [n for n in (lower, lower + devices) if n]
    raise SpecError(
      f"global_batch_size={global_batch_size} is not divisible by {devices} "
      f"devices; use {' or '.join(map(str, choices))}"
    )


def _data_size(spec: MeshSpec, count: int, slices: int) -> int:
  """Returns the size of `data` after checking the axis sizes."""
  each = count // slices
  require(
    slices == 1 or spec.fsdp <= each,
    f"mesh.fsdp={spec.fsdp} would span slices of {each} devices, and the "
    "network between slices is too slow to gather weights over it; use "
    f"{each} or one of its divisors",
  )
  asked = spec.data * spec.fsdp
  require(
    asked <= count,
    f"mesh.data={spec.data} x mesh.fsdp={spec.fsdp} needs {asked} devices, but "
    f"there are {count}; use mesh.data=-1 to use all devices",
  )
  require(
    0 < asked < count or each % spec.fsdp == 0,
    f"mesh.fsdp={spec.fsdp} does not divide {each} devices"
    f"{' of a slice' * (slices > 1)}; use a divisor",
  )
  return count // spec.fsdp if spec.data == -1 else spec.data


def _check_some_left_out(
  spec: MeshSpec, devices: Sequence[Any], slices: Sequence[Sequence[Any]]
) -> None:
  """Raises if devices are idle with several processes or slices."""
  processes = len({device.process_index for device in devices})
  require(
    len(slices) == 1 and processes == 1,
    f"mesh.data={spec.data} x mesh.fsdp={spec.fsdp} leaves some of "
    f"{len(devices)} devices idle, which is not possible with {processes} "
    f"processes and {len(slices)} slices; use mesh.data=-1",
  )


def _slices(spec: MeshSpec, devices: Sequence[Any]) -> list[list[Any]]:
  """Returns the devices of each slice, in slice order.

  Raises:
    SpecError: if the number of slices differs from the spec, or if the slices
      have different sizes.
  """
  parts = collections.defaultdict(list)
  for device in devices:
    # Devices without slices may lack the attribute.
    parts[getattr(device, "slice_index", 0)].append(device)
  if len(parts) == 1 and spec.slices > 1 and devices[0].platform == "cpu":
    return _deal(spec.slices, devices)
  require(
    spec.slices in (-1, len(parts)),
    f"mesh.slices={spec.slices}, but the {len(devices)} devices belong to "
    f"{len(parts)} slice(s); use mesh.slices=-1 to detect the slices",
  )
  sizes = sorted({len(part) for part in parts.values()})
  require(
    len(sizes) == 1,
    f"slices have different sizes ({', '.join(map(str, sizes))} devices); use "
    "slices of the same size",
  )
  return [parts[index] for index in sorted(parts)]


def _deal(slices: int, devices: Sequence[Any]) -> list[list[Any]]:
  """Splits CPU devices into equal groups that simulate slices."""
  processes = len({device.process_index for device in devices})
  each, left = divmod(len(devices), slices)
  require(
    left == 0 and (processes == 1 or processes % slices == 0),
    f"mesh.slices={slices} does not split {len(devices)} CPU devices of "
    f"{processes} process(es) into equal groups; use a divisor of "
    f"{len(devices) if processes == 1 else processes}",
  )
  return [list(devices[i * each : (i + 1) * each]) for i in range(slices)]


def _arrange(devices: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
  """Arranges a slice's devices as [data, fsdp], with `fsdp` along the torus."""
  if devices[0].device_kind == "TPU v4":
    return _arrange_cores(devices, shape)
  return mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )


def _arrange_cores(
  devices: Sequence[Any], shape: tuple[int, int]
) -> np.ndarray:
  """Arranges devices of chips that may have two cores, each its own device.

  JAX can arrange v4 chips only if each chip is one device, as it is in a job.
  In a topology description, a chip has two devices. The cores of a chip are
  nearest neighbors.
  """
  data, fsdp = shape
  on_chip = collections.defaultdict(list)
  for device in devices:
    on_chip[tuple(device.coords)].append(device)
  cores = len(devices) // len(on_chip)
  inner = cores if fsdp % cores == 0 else 1
  chips = mesh_utils.create_device_mesh(
    (data * inner // cores, fsdp // inner),
    [chip[0] for chip in on_chip.values()],
    allow_split_physical_axes=True,
  )
  grid = np.array([on_chip[tuple(chip.coords)] for chip in chips.flat])
  if inner == cores:
    return grid.reshape(shape)
  grid_dfc = grid.reshape(*chips.shape, cores)
  return grid_dfc.swapaxes(1, 2).reshape(shape)
