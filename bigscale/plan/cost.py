"""Estimates the seconds of a collective with an alpha-beta model of the torus.

The bandwidth term is bytes divided by the bandwidth of the links that the
collective can use. The latency term is hops times `HOP_SECONDS`. Let V be the
size of the collective (see `collectives`), n the number of chips of a group,
and W the speed of a link in one direction.

The coordinates of a group's devices place it on the torus. If they form a box,
every axis along which the box has more than one chip contributes links: 2 W if
the axis is a ring and the group covers it, otherwise W, since the two ends of a
line have one link each. The axes work on different parts of the buffer at the
same time, so their bandwidths add up to B:

    all-gather, reduce-scatter   V (n - 1) / n / B
    all-reduce                   twice that: a reduce-scatter and an all-gather
    all-to-all                   the longest axis, of m chips, cut in half:
                                 V m / 8 / W on a ring, V m / 4 / W on a line
    collective-permute           V h / W with h hops: the messages of all
                                 devices share the links on their way

There are m / 2 hops on a ring of m chips and m - 1 on a line, summed over the
axes, and twice as many for an all-reduce. A group that takes every s-th chip of
an axis shares its links with s - 1 other groups: it has W / s and s times the
hops. Cores of one chip in different groups share the chip's links. A group
within one chip moves V through HBM. Devices that do not form a box are modeled
as one line, with a warning.

Between slices (DCN), each device has an equal share of its host's network card.
A collective over s slices takes s - 1 rounds of `DCN_SECONDS` and sends
V (s - 1) / s, twice for an all-reduce. An all-gather receives (s - 1) / s of
its result.

The model ignores the compiler's choice of algorithm, twisted tori, contention
between simultaneous collectives, and start-up costs. For an example of the book
that the figures come from, it gives 560 us where the book measured 680 us.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from bigscale.plan.collectives import Collective
from bigscale.plan.groups import Groups
from bigscale.plan.topology import (
  DCN_BYTES_PER_SECOND,
  DCN_SECONDS,
  HOP_SECONDS,
  Topology,
)


class Place(NamedTuple):
  """Position of a device: its chip's coordinates in the slice, and its core."""

  chip: tuple[int, ...]
  core: int = 0


@dataclasses.dataclass(frozen=True)
class Span:
  """Extent of a group along one axis of the torus.

  Attributes:
    chips: number of the group's chips along the axis.
    stride: distance between these chips, which is also the number of groups
      that share the links.
    ring: whether the axis is a ring that the group covers.
  """

  chips: int
  stride: int
  ring: bool

  @property
  def links(self) -> float:
    """Bandwidth out of a chip, in links."""
    return (2 if self.ring else 1) / self.stride

  @property
  def hops(self) -> float:
    """Number of hops to the farthest chip."""
    chips = self.chips / 2 if self.ring else self.chips - 1
    return chips * self.stride


@dataclasses.dataclass(frozen=True)
class TorusGroup:
  """A group on the torus.

  Attributes:
    chips: number of chips.
    spans: extents along the axes with more than one of its chips.
    sharing: number of groups that share a chip's links.
    is_box: whether its devices form a box.
  """

  chips: int
  spans: tuple[Span, ...]
  sharing: int = 1
  is_box: bool = True


def places(devices: Sequence[Any], topology: Topology) -> list[Place]:
  """Returns the positions of a program's devices.

  Only the first slice is returned, since all slices run the same program.

  Args:
    devices: devices in mesh order.
    topology: topology of the devices.
  """
  axes = len(topology.shape)
  first = getattr(devices[0], "slice_index", None)
  return [
    Place(tuple(device.coords[:axes]), getattr(device, "core_on_chip", 0))
    for device in devices
    if getattr(device, "slice_index", None) == first
  ]


class Interconnect:
  """Cost model of the links between a mesh's devices.

  Args:
    topology: topology of the devices.
    where: positions of the program's devices; see `places`.
  """

  def __init__(self, topology: Topology, where: Sequence[Place]) -> None:
    self.topology = topology
    self.warnings: list[str] = []
    self._places = where
    self._layouts = functools.cache(self._lay_out)

  def seconds(self, collective: Collective) -> float:
    """Returns the seconds of one occurrence, without overlap."""
    if collective.between_slices:
      return self._between_slices(collective)
    if collective.kind == "collective-permute":
      return self._permute(collective)
    layouts = self._layouts(collective.groups)
    return max(
      (self._within_slice(collective, one) for one in layouts), default=0.0
    )

  def _within_slice(self, collective: Collective, layout: TorusGroup) -> float:
    chip, size = self.topology.chip, collective.bytes
    if layout.chips == 1:
      return size / chip.hbm_bytes_per_second
    speed = chip.link_bytes_per_second / layout.sharing
    hops = sum(span.hops for span in layout.spans)
    if collective.kind == "all-to-all":
      worst = max(
        span.chips * (1 if span.ring else 2) * span.stride
        for span in layout.spans
      )
      return size * worst / 8 / speed + hops * HOP_SECONDS
    passes = 2 if collective.kind == "all-reduce" else 1
    share = (layout.chips - 1) / layout.chips
    links = sum(span.links for span in layout.spans)
    return passes * (size * share / (links * speed) + hops * HOP_SECONDS)

  def _permute(self, collective: Collective) -> float:
    hops = max((self._distance(*pair) for pair in collective.groups), default=0)
    if hops == 0:
      return collective.bytes / self.topology.chip.hbm_bytes_per_second
    speed = self.topology.chip.link_bytes_per_second
    return hops * (collective.bytes / speed + HOP_SECONDS)

  def _distance(self, source: int, target: int) -> int:
    total = 0
    ends = zip(self._chip(source), self._chip(target), strict=True)
    for axis, (start, end) in enumerate(ends):
      direct = abs(start - end)
      around = self.topology.shape[axis] - direct
      total += min(direct, around) if self.topology.is_ring(axis) else direct
    return total

  def _between_slices(self, collective: Collective) -> float:
    slices, chip = self.topology.slices, self.topology.chip
    speed = DCN_BYTES_PER_SECOND / (chip.chips_per_host * chip.cores)
    passes = 2 if collective.kind == "all-reduce" else 1
    share = (slices - 1) / slices
    if collective.kind == "all-gather":
      # Each device sends its own shard.
      share = slices - 1
    rounds = max(1, slices - 1)
    return passes * (collective.bytes * share / speed + rounds * DCN_SECONDS)

  def _lay_out(self, groups: Groups) -> tuple[TorusGroup, ...]:
    """Returns the distinct layouts among the groups of a collective."""
    found = set()
    # Number of groups that use each chip and its links.
    users = collections.Counter(
      chip for group in groups for chip in self._chips(group)
    )
    for group in groups:
      chips = self._chips(group)
      layout = self._of_chips(chips)
      sharing = max(users[chip] for chip in chips)
      found.add(dataclasses.replace(layout, sharing=sharing))
      if not layout.is_box:
        text = (
          f"a group of {len(chips)} chips does not form a box in the torus of "
          f"{self.topology.name}; its collectives are modeled on a line"
        )
        if text not in self.warnings:
          self.warnings.append(text)
    return tuple(found)

  def _chip(self, member: int) -> tuple[int, ...]:
    # All slices have the same layout, one after another.
    return self._places[member % len(self._places)].chip

  def _chips(self, group: Sequence[int]) -> set[tuple[int, ...]]:
    return {self._chip(member) for member in group}

  def _of_chips(self, chips: set[tuple[int, ...]]) -> TorusGroup:
    sides = [sorted(set(along)) for along in zip(*chips, strict=True)]
    steps = [{b - a for a, b in itertools.pairwise(side)} for side in sides]
    even = all(len(step) <= 1 for step in steps)
    if math.prod(map(len, sides)) != len(chips) or not even:
      line = Span(len(chips), stride=1, ring=False)
      return TorusGroup(len(chips), (line,), is_box=False)
    spans = []
    for axis, (side, step) in enumerate(zip(sides, steps, strict=True)):
      if len(side) == 1:
        continue
      stride = min(step)
      whole = len(side) * stride == self.topology.shape[axis]
      ring = whole and self.topology.is_ring(axis)
      spans.append(Span(len(side), stride, ring))
    return TorusGroup(len(chips), tuple(spans))
