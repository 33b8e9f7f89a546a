"""How devices are arranged."""

import dataclasses
from typing import Literal

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
  """How devices are arranged.

  Attributes:
    data: replicas; -1 takes all devices that `fsdp` leaves.
    fsdp: devices that share one replica's state, all of one slice.
    weights: `replicated` keeps the whole state on every device; `zero` splits
      it over `fsdp` and gathers weights once a step; `fsdp` gathers them
      block by block (`parallel/sharding`).
    min_split_elements: smaller weights stay whole: a share would cost more to
      send than to hold.
    gradient_dtype: in which gradients of bfloat16 weights cross devices.
    slices: groups of devices joined by a data-center network, which only
      `data` crosses; -1 asks the devices. CPU devices, which know of none,
      are dealt into as many equal groups as are named here.
  """

  data: int = -1
  fsdp: int = 1
  weights: Literal["replicated", "zero", "fsdp"] = "replicated"
  min_split_elements: int = 2**14
  gradient_dtype: Literal["float32", "bfloat16"] = "float32"
  slices: int = -1

  def __post_init__(self) -> None:
    require(
      (self.data == -1 or self.data >= 1) and self.fsdp >= 1,
      f"mesh.data={self.data}, mesh.fsdp={self.fsdp}: use positive numbers, "
      "or -1 for mesh.data to take all devices",
    )
    require(
      self.slices == -1 or self.slices >= 1,
      f"mesh.slices={self.slices}: use a positive number, or -1 to ask the "
      "devices",
    )
    require(
      -1 in (self.data, self.slices) or self.data % self.slices == 0,
      f"mesh.data={self.data} does not split over mesh.slices={self.slices}; "
      "use a multiple, or -1 for mesh.data to take all devices",
    )
    require(
      self.min_split_elements >= 0,
      f"mesh.min_split_elements={self.min_split_elements} must not be negative",
    )
