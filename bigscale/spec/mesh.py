"""Spec of the device mesh."""

import dataclasses
from typing import Literal

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
  """How devices are arranged and how weights are sharded over them.

  Attributes:
    data: number of replicas; -1 uses all devices that `fsdp` leaves.
    fsdp: number of devices that share the state of one replica. All of them
      must belong to one slice.
    weights: `replicated` keeps the whole state on every device. `zero` shards
      it over `fsdp` and gathers the weights once per step. `fsdp` shards it and
      gathers the weights block by block (`parallel/sharding`).
    min_split_elements: smallest number of elements of a weight that is sharded.
      Smaller weights are replicated, because communicating a shard would cost
      more than the memory it saves.
    gradient_dtype: dtype in which gradients of bfloat16 weights are sent
      between devices.
    slices: number of slices, groups of devices that are connected by a
      data-center network. Only the `data` axis crosses slices. -1 reads the
      number from the devices. CPU devices have no slices, so they are divided
      into this number of equal groups.
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
      "or -1 for mesh.data to use all devices",
    )
    require(
      self.slices == -1 or self.slices >= 1,
      f"mesh.slices={self.slices}: use a positive number, or -1 to read it "
      "from the devices",
    )
    require(
      -1 in (self.data, self.slices) or self.data % self.slices == 0,
      f"mesh.data={self.data} is not divisible by mesh.slices={self.slices}; "
      "use a multiple, or -1 for mesh.data to use all devices",
    )
    require(
      self.min_split_elements >= 0,
      f"mesh.min_split_elements={self.min_split_elements} must not be negative",
    )
