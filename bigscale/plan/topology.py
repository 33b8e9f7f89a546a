"""Defines TPU slices: their chips and the links between them.

A name has the form `FAMILY:SHAPE` with the shape in chips, such as "v5e:16x16".
The number of slices comes first if a data-center network connects several:
"2xv5e:16x16". A device is a JAX device: a core on v3 and v4, and a chip on
other families. (Cloud TPU exposes the two cores of a v4 chip as one "megacore"
device, but the compiler's topology description does not.)

All figures are public. [docs] is the page of each family in Google's Cloud TPU
documentation (docs.cloud.google.com/tpu/docs/v5e and so on). [book] is "How To
Scale Your Model", chapters 2 and 3 (jax-ml.github.io/scaling-book), whose link
speeds are used throughout. [libtpu] comes from messages of the compiler. A
nominal figure is from memory or a rule of thumb.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from bigscale.parallel.peaks import CHIP_PEAK_FLOPS
from bigscale.spec import SpecError, require

GIB = 2**30
# [book], chapter 3: a hop takes "typically around 1us". It measured 8 us for a
# gather over 3 hops, so small collectives are slower than modeled.
HOP_SECONDS = 1e-6
# Nominal round trip between hosts of a data center.
DCN_SECONDS = 1e-4
# [book], chapter 2: "typically around 2.5e10 bytes / second per host".
DCN_BYTES_PER_SECOND = 2.5e10

# Environment variables to set before libtpu starts.
_ENVIRONMENT = {
  # Otherwise, a second process aborts on the lock file of the first.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # Otherwise, libtpu queries the cloud's metadata server, which fails on
  # machines outside the cloud.
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_LOG_DIR": "disabled",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """A TPU generation. Figures are per device unless stated otherwise.

  Attributes:
    family: name of the generation, such as "v5e".
    example: name of a common slice.
    cores: devices per chip.
    hbm_bytes: memory that a program can use.
    peak_flops: bfloat16 operations per second.
    hbm_bytes_per_second: memory bandwidth.
    clock_hz: nominal clock, which converts cycles to seconds.
    link_bytes_per_second: speed of one link of a chip in one direction.
    largest: maximum number of chips along each axis of the torus.
    ring: an axis is a ring if its length is a multiple of this number.
    ring_needs_all: whether an axis is a ring only if the lengths of all axes
      are multiples of `ring`.
    chips_per_host: chips that share a host's network card.
    slices: common shapes, smallest first, for advice.
  """

  family: str
  example: str
  cores: int = 1
  hbm_bytes: int
  peak_flops: float
  hbm_bytes_per_second: float
  clock_hz: float
  link_bytes_per_second: float
  largest: tuple[int, ...]
  ring: int
  ring_needs_all: bool = False
  chips_per_host: int
  slices: tuple[tuple[int, ...], ...]


_SQUARES = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
  (2, 2, 1),
  (2, 2, 2),
  (2, 2, 4),
  (2, 4, 4),
  (4, 4, 4),
  (4, 4, 8),
  (4, 8, 8),
  (8, 8, 8),
  (8, 8, 16),
  (8, 16, 16),
  (16, 16, 16),
)

CHIPS = {
  chip.family: chip
  for chip in (
    Chip(
      family="v3",
      example="v3:16x16",
      cores=2,
      hbm_bytes=int(15.48 * GIB),  # [libtpu]
      peak_flops=CHIP_PEAK_FLOPS["v3"] / 2,
      hbm_bytes_per_second=9.0e11 / 2,  # [docs], [book]
      clock_hz=0.94e9,  # nominal
      link_bytes_per_second=1e11,  # [book]
      largest=(32, 32),  # [book]: a pod is 32 x 32
      ring=32,  # nominal: whole sides, as in later two-dimensional pods
      chips_per_host=4,  # [docs]
      slices=(*_SQUARES, (16, 32), (32, 32)),
    ),
    Chip(
      family="v4",
      example="v4:4x4x4",
      cores=2,
      hbm_bytes=int(15.25 * GIB),  # [libtpu]
      peak_flops=CHIP_PEAK_FLOPS["v4"] / 2,
      hbm_bytes_per_second=1.2e12 / 2,  # [docs], per chip
      clock_hz=1.05e9,  # nominal
      link_bytes_per_second=4.5e10,  # [book]
      largest=(16, 16, 16),  # [docs]: 4096 chips
      ring=4,  # [book]: whole cubes of 4 x 4 x 4, joined optically
      ring_needs_all=True,
      chips_per_host=4,  # [docs]
      slices=_CUBES,
    ),
    Chip(
      family="v5e",
      example="v5e:16x16",
      hbm_bytes=int(15.75 * GIB),  # [libtpu]
      peak_flops=CHIP_PEAK_FLOPS["v5e"],
      hbm_bytes_per_second=8.19e11,  # [docs]
      clock_hz=1.5e9,  # [book], chapter 2
      # [book], chapter 3. [docs]: 400 GB/s for 4 bidirectional links, or 5e10.
      link_bytes_per_second=4.5e10,
      largest=(16, 16),  # [docs]: 256 chips
      ring=16,  # [book]: "no wraparound links for axes with fewer than 16"
      chips_per_host=8,  # [docs]
      slices=_SQUARES,
    ),
    Chip(
      family="v5p",
      example="v5p:8x8x8",
      hbm_bytes=int(95.73 * GIB),  # [libtpu]
      peak_flops=CHIP_PEAK_FLOPS["v5p"],
      hbm_bytes_per_second=2.765e12,  # [docs]
      clock_hz=1.75e9,  # nominal
      # [docs]: 1200 GB/s for 6 bidirectional links, or 1e11. Reduced by 10%,
      # like the value of [book] for v5e.
      link_bytes_per_second=9e10,
      largest=(16, 20, 28),  # [book]
      ring=4,
      ring_needs_all=True,
      chips_per_host=4,  # [docs]
      slices=_CUBES,
    ),
    Chip(
      family="v6e",
      example="v6e:16x16",
      hbm_bytes=int(31.24 * GIB),  # [libtpu]
      peak_flops=CHIP_PEAK_FLOPS["v6e"],
      hbm_bytes_per_second=1.638e12,  # [docs]
      clock_hz=1.75e9,  # nominal
      # [docs]: 800 GB/s for 4 bidirectional links, or 1e11. Reduced by 10%.
      link_bytes_per_second=9e10,
      largest=(16, 16),  # [docs]: 256 chips
      ring=16,
      chips_per_host=8,  # [docs]
      slices=_SQUARES,
    ),
  )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """One slice, or several equal slices.

  Attributes:
    chip: generation of the chips.
    shape: number of chips along each axis of a slice.
    slices: number of slices.
  """

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def slice_name(self) -> str:
    """Name of one slice in libtpu, such as "v5e:16x16"."""
    return f"{self.chip.family}:{'x'.join(map(str, self.shape))}"

  @property
  def name(self) -> str:
    """Name of all slices, such as "v5e:16x16" or "2xv5e:16x16"."""
    several = f"{self.slices}x" if self.slices > 1 else ""
    return several + self.slice_name

  @property
  def devices_per_slice(self) -> int:
    """Number of devices per slice, chips times cores."""
    return math.prod(self.shape) * self.chip.cores

  @property
  def device_count(self) -> int:
    """Number of devices of all slices."""
    return self.slices * self.devices_per_slice

  def is_ring(self, axis: int) -> bool:
    """Returns whether the last chip along an axis is linked to the first."""
    axes = self.shape if self.chip.ring_needs_all else (self.shape[axis],)
    return all(size % self.chip.ring == 0 for size in axes)


def parse(name: str) -> Topology:
  """Returns the topology of a name.

  Raises:
    SpecError: the family is unknown, or has no slice of the shape.
  """
  found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)", name.strip())
  known = ", ".join(chip.example for chip in CHIPS.values())
  require(
    found is not None and found[2] in CHIPS,
    f"unknown topology {name!r}; use FAMILY:SHAPE in chips, such as {known}, "
    "or 2xv5e:16x16 for two slices",
  )
  chip, slices = CHIPS[found[2]], int(found[1] or 1)
  shape = tuple(int(size) for size in found[3].split("x"))
  limits = "x".join(map(str, chip.largest))
  require(
    len(shape) == len(chip.largest),
    f"topology {name!r} has {len(shape)} axes, but {chip.family} slices have "
    f"{len(chip.largest)}; use a shape like {chip.example}",
  )
  fits = all(
    1 <= size <= limit
    for size, limit in zip(sorted(shape), sorted(chip.largest), strict=True)
  )
  require(
    fits and slices >= 1,
    f"topology {name!r} is not a slice of a {chip.family} pod, which has "
    f"{limits} chips; use {chip.example}, or several slices such as "
    f"2x{chip.example}",
  )
  return Topology(chip, shape, slices)


def prepare() -> None:
  """Sets the environment of JAX and libtpu; call it before importing jax.

  The planner computes nothing on a device, so JAX uses the CPU and leaves any
  local TPU free.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)


def require_compiler() -> None:
  """Raises `SpecError` unless libtpu is installed."""
  require(
    importlib.util.find_spec("libtpu") is not None,
    "planning needs the TPU compiler, libtpu; run pip install "
    "'bigscale[tpu-plan]'",
  )


def devices(topology: Topology) -> Sequence[Any]:
  """Returns JAX devices to compile for, which need not be attached.

  Raises:
    SpecError: libtpu is not installed, or does not know the slice.
  """
  require_compiler()
  # Repeated here for callers that do not use the command line.
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  import jax
  from jax.experimental import topologies

  options = {"num_slices": topology.slices} if topology.slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      topology.slice_name, platform="tpu", **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise SpecError(
      f"the TPU compiler rejects topology {topology.name!r}: {error}; use a "
      f"shape like {topology.chip.example}"
    ) from error
  return found.devices
