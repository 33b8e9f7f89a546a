"""Seconds of a collective: an alpha-beta model of the torus.

A collective's bandwidth term is bytes over the links it can use, its latency
term hops times `HOP_SECONDS`. Let V be its size (see `collectives`), n the
chips of a group, and W a link's speed one way.

A group is laid onto the torus by the coordinates of its devices. Where they
form a box, every axis on which the box has more than one chip adds its links:
2 W where the axis closes to a ring and the group takes all of it, W on a line,
for its two ends have one link each. The axes work on parts of the buffer at
the same time, so that their bandwidths add up to B:

    all-gather, reduce-scatter   V (n - 1) / n / B
    all-reduce                   twice that: a reduce-scatter and an all-gather
    all-to-all                   the longest axis, of m chips, cut in halves:
                                 V m / 8 / W on a ring, V m / 4 / W on a line
    collective-permute           V h / W with h hops: messages of all devices
                                 share the links on their way

Hops: m / 2 on a ring of m, m - 1 on a line, summed over the axes, and twice
for an all-reduce. A group that takes every s-th chip of an axis shares its
links with s - 1 others: W / s, and s times the hops. Cores of a chip that
belong to different groups share its links. A group within one chip moves V
through HBM. Devices that form no box are taken as one line, with a warning.

Between slices (DCN) a device has its share of its host's network card, and a
collective over s slices takes s - 1 rounds of `DCN_SECONDS`:
V (s - 1) / s, twice for an all-reduce; an all-gather receives (s - 1) / s of
what it gathers.

What it leaves out: the compiler's choice of algorithm, twisted tori,
contention between two collectives at a time, and start-up costs. The book
that gives the figures shows 680 us measured where this says 560.
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
  """Where a device is: its chip's coordinates in the slice, and its core."""

  chip: tuple[int, ...]
  core: int = 0


@dataclasses.dataclass(frozen=True)
class Span:
  """How far a group reaches along one axis of the torus.

  Attributes:
    chips: of the group along it.
    stride: between them; so many groups share the links.
    ring: whether it closes.
  """

  chips: int
  stride: int
  ring: bool

  @property
  def links(self) -> float:
    """Links' worth of bandwidth out of a chip."""
    return (2 if self.ring else 1) / self.stride

  @property
  def hops(self) -> float:
    """To the farthest chip."""
    chips = self.chips / 2 if self.ring else self.chips - 1
    return chips * self.stride


@dataclasses.dataclass(frozen=True)
class TorusGroup:
  """A group on the torus.

  Attributes:
    chips: of it.
    spans: along axes on which it has more than one chip.
    sharing: groups that share a chip's links.
    is_box: whether its devices form one.
  """

  chips: int
  spans: tuple[Span, ...]
  sharing: int = 1
  is_box: bool = True


def places(devices: Sequence[Any], topology: Topology) -> list[Place]:
  """Where the devices of a program are.

  Args:
    devices: of the mesh, in its order. Of several slices the first stands for
      all, for each runs the same program within itself.
    topology: they are of.
  """
  axes = len(topology.shape)
  first = getattr(devices[0], "slice_index", None)
  return [
    Place(tuple(device.coords[:axes]), getattr(device, "core_on_chip", 0))
    for device in devices
    if getattr(device, "slice_index", None) == first
  ]


class Interconnect:
  """The links of a topology under a mesh.

  Args:
    topology: of the slices.
    where: `places` of the program's devices.
  """

  def __init__(self, topology: Topology, where: Sequence[Place]) -> None:
    self.topology = topology
    self.warnings: list[str] = []
    self._where = where
    self._layouts = functools.cache(self._lay_out)

  def seconds(self, collective: Collective) -> float:
    """One occurrence, with nothing beside it."""
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
      # What is sent is a device's own part.
      share = slices - 1
    rounds = max(1, slices - 1)
    return passes * (collective.bytes * share / speed + rounds * DCN_SECONDS)

  def _lay_out(self, groups: Groups) -> tuple[TorusGroup, ...]:
    """The distinct layouts among the groups of a collective."""
    found = set()
    # Groups that use a chip, and so its links.
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
          f"a group of {len(chips)} chips forms no box in the torus of "
          f"{self.topology.name}; its collectives are counted as on one line"
        )
        if text not in self.warnings:
          self.warnings.append(text)
    return tuple(found)

  def _chip(self, member: int) -> tuple[int, ...]:
    # Slices are alike, one after another.
    return self._where[member % len(self._where)].chip

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
