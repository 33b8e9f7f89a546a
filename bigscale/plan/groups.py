"""Parses the device groups of a collective from HLO text.

The following forms occur. All consist of partition ids, which number the mesh's
devices in order:

    replica_groups={{0,1},{2,3}}
    replica_groups=[2,8]<=[4,4]T(1,0)                    iota, transposed
    replica_groups=mesh['a'=4,'b'=4] {'b'}               axes of a mesh
    replica_groups=mesh['a'=4], device_ids=([2,2]T(1,0)) {'a':(2)2}
    source_target_pairs={{0,1},{1,0}}                    permutations

`'a':(2)2` is a sub-axis of size 2 of the axis `a`, after larger sub-axes of
total size 2.
"""

import itertools
import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_LISTS = re.compile(r"\breplica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(
  r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_MESH = re.compile(
  r"\breplica_groups=mesh\[([^\]]*)\]"
  r"(?:, device_ids=\(((?:[^()]|\([^()]*\))*)\))?"
  r"(?: \{([^}]*)\})?"
)
_PAIRS = re.compile(r"\bsource_target_pairs=\{([\d,{}]*)\}")
_AXIS = re.compile(r"'?([\w.\-]+)'?=(\d+)")
_PART = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


def replica_groups(attributes: str, devices: int) -> Groups:
  """Returns the groups of a collective.

  Args:
    attributes: attributes of the instruction, as printed.
    devices: number of devices of the program. A collective without groups
      uses all of them.
  """
  if found := _PAIRS.search(attributes):
    return _inner_lists(found[1])
  if found := _IOTA.search(attributes):
    shape, sizes = _numbers(found[1]), _numbers(found[2])
    return _rows(_iota(sizes, _numbers(found[3])).reshape(shape))
  if found := _MESH.search(attributes):
    return _of_mesh(found[1], found[2], found[3])
  if (found := _LISTS.search(attributes)) and found[1]:
    return _inner_lists(found[1])
  return (tuple(range(devices)),)


def _of_mesh(axes: str, device_ids: str | None, grouped: str | None) -> Groups:
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  if grouped is None:
    grouped = ",".join(sizes)
  wanted = [
    (name, int(before or 1), int(size or sizes[name]))
    for name, before, size in _PART.findall(grouped)
  ]
  # Every axis is split where a requested sub-axis begins or ends.
  shape, index_of = [], {}
  for name, size in sizes.items():
    cuts = {1, size}
    for axis, before, part in wanted:
      if axis == name:
        cuts |= {before, before * part}
    steps = sorted(cuts)
    for low, high in itertools.pairwise(steps):
      index_of[name, low] = len(shape)
      shape.append(high // low)
  ids = _device_ids(device_ids, math.prod(sizes.values()))
  members = [
    index_of[name, before] for name, before, part in wanted if part > 1
  ]
  others = [axis for axis in range(len(shape)) if axis not in members]
  count = math.prod(shape[axis] for axis in members)
  return _rows(
    ids.reshape(shape).transpose([*others, *members]).reshape(-1, count)
  )


def _device_ids(text: str | None, count: int) -> np.ndarray:
  if text is None:
    return np.arange(count)
  iota = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
  if iota:
    return _iota(_numbers(iota[1]), _numbers(iota[2])).reshape(-1)
  return np.array(_numbers(text))


def _iota(sizes: list[int], order: list[int]) -> np.ndarray:
  ids = np.arange(math.prod(sizes)).reshape(sizes)
  return ids.transpose(order) if order else ids


def _inner_lists(text: str) -> Groups:
  return tuple(
    tuple(_numbers(inner)) for inner in re.findall(r"\{([\d,]*)\}", text)
  )


def _rows(ids: np.ndarray) -> Groups:
  return tuple(tuple(int(n) for n in row) for row in ids)


def _numbers(text: str | None) -> list[int]:
  return [int(n) for n in text.split(",")] if text else []
