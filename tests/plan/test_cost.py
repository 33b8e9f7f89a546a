"""Tests of the cost model of collectives against values computed by hand."""

import pytest

from bigscale.plan import cost
from bigscale.plan.collectives import Collective
from bigscale.plan.topology import parse

US = 1e-6


def network(name):
  """A network with devices in x-major order, and cores of a chip adjacent."""
  topology = parse(name)
  axes = len(topology.shape)
  shape = (*topology.shape, 1)[:3]
  where = [
    cost.Place((x, y, z)[:axes], core)
    for z in range(shape[2])
    for y in range(shape[1])
    for x in range(shape[0])
    for core in range(topology.chip.cores)
  ]
  return cost.Interconnect(topology, where)


def seconds(name, kind, size, groups, **options):
  one = Collective(kind, size, "f32", groups, **options)
  return network(name).seconds(one)


ROW = (tuple(range(16)),)  # a row of v5e:16x16, a ring of 16
ALL = (tuple(range(256)),)


def test_gather_on_a_ring():
  # V (n - 1) / n over two links, and 8 hops.
  expected = 90e6 * 15 / 16 / 9e10 + 8 * US
  found = seconds("v5e:16x16", "all-gather", 90e6, ROW)
  assert found == pytest.approx(expected)


def test_all_reduce_takes_twice_as_long_as_all_gather():
  gather = seconds("v5e:16x16", "all-gather", 90e6, ROW)
  scatter = seconds("v5e:16x16", "reduce-scatter", 90e6, ROW)
  reduce = seconds("v5e:16x16", "all-reduce", 90e6, ROW)
  assert gather == scatter
  assert reduce == pytest.approx(2 * gather)


def test_two_axes_add_their_links():
  expected = 2 * (176e6 * 255 / 256 / 18e10 + 16 * US)
  found = seconds("v5e:16x16", "all-reduce", 176e6, ALL)
  assert found == pytest.approx(expected)


def test_example_of_the_scaling_book():
  """Scaling book, chapter 3, quiz 2: 3 x 8.4 MB at 45 GB/s, 560 us."""
  size = 2048 * 8192 * 2
  found = seconds("v5e:4x8", "all-gather", size, (tuple(range(4)),))
  assert found == pytest.approx(3 / 4 * size / 4.5e10 + 3 * US)
  assert found == pytest.approx(560e-6, rel=0.02)


def test_an_axis_without_wraparound_is_a_line():
  on_line = seconds("v5e:8x16", "all-gather", 80e6, (tuple(range(8)),))
  assert on_line == pytest.approx(80e6 * 7 / 8 / 4.5e10 + 7 * US)
  # 16 x 16 chips: the axis y is a ring.
  column = (tuple(range(0, 128, 8)),)
  ring = seconds("v5e:8x16", "all-gather", 80e6, column)
  assert ring == pytest.approx(80e6 * 15 / 16 / 9e10 + 8 * US)


def test_part_of_a_ring_is_a_line():
  half = seconds("v5e:16x16", "all-gather", 80e6, (tuple(range(8)),))
  assert half == pytest.approx(80e6 * 7 / 8 / 4.5e10 + 7 * US)


def test_strided_groups_share_links():
  # Every fourth chip of a ring of 16: four groups share the links.
  groups = tuple(tuple(range(first, 16, 4)) for first in range(4))
  found = seconds("v5e:16x16", "all-gather", 40e6, groups)
  assert found == pytest.approx(40e6 * 3 / 4 / (9e10 / 4) + 2 * 4 * US)


def test_cores_share_the_links_of_a_chip():
  # v3:2x2 has 4 chips of 2 cores; one group has the first core of each chip.
  apart = ((0, 2, 4, 6), (1, 3, 5, 7))
  found = seconds("v3:2x2", "all-gather", 4e6, apart)
  assert found == pytest.approx(4e6 * 3 / 4 / 2e11 * 2 + 2 * US)
  together = seconds("v3:2x2", "all-gather", 4e6, (tuple(range(8)),))
  assert together == pytest.approx(4e6 * 3 / 4 / 2e11 + 2 * US)
  # Within a chip, data moves through HBM.
  pairs = ((0, 1), (2, 3), (4, 5), (6, 7))
  assert seconds("v3:2x2", "all-reduce", 4.5e6, pairs) == pytest.approx(1e-5)


def test_cubes_wrap_around_if_all_sides_are_multiples_of_four():
  four = (tuple(range(0, 8, 2)),)  # 4 chips along x, first cores
  ring = seconds("v4:4x4x4", "all-gather", 9e6, four)
  assert ring == pytest.approx(9e6 * 3 / 4 / 9e10 + 2 * US)
  line = seconds("v4:4x4x2", "all-gather", 9e6, four)
  assert line == pytest.approx(9e6 * 3 / 4 / 4.5e10 + 3 * US)


def test_longest_axis_bounds_all_to_all():
  # The book: a quarter of the whole array, n V, over both directions.
  ring = seconds("v5e:16x16", "all-to-all", 9e6, ROW)
  assert ring == pytest.approx(16 * 9e6 / 4 / 9e10 + 8 * US)
  line = seconds("v5e:4x4", "all-to-all", 9e6, (tuple(range(4)),))
  assert line == pytest.approx(4 * 9e6 / 4 / 4.5e10 + 3 * US)


def test_permutation_time_grows_with_distance():
  near = seconds("v5e:16x16", "collective-permute", 4.5e6, ((0, 1),))
  assert near == pytest.approx(100e-6 + 1 * US)
  # 15 hops along the row are 1 hop around the ring.
  around = seconds("v5e:16x16", "collective-permute", 4.5e6, ((0, 15),))
  assert around == pytest.approx(near)
  far = seconds("v5e:4x4", "collective-permute", 4.5e6, ((0, 15), (0, 1)))
  assert far == pytest.approx(6 * near)


def test_between_slices():
  """Each v5e chip has an eighth of the host's 25 GB/s."""
  speed = 2.5e10 / 8
  found = seconds("2xv5e:16x16", "all-reduce", 1e6, (), between_slices=True)
  assert found == pytest.approx(2 * (1e6 / 2 / speed + 1e-4))
  four = seconds("4xv5e:16x16", "all-gather", 1e6, (), between_slices=True)
  assert four == pytest.approx(3e6 / speed + 3e-4)


def test_irregular_groups_are_modeled_as_a_line_with_a_warning():
  web = network("v5e:4x4")
  one = Collective("all-gather", 45e6, "f32", ((0, 1, 6),))
  assert web.seconds(one) == pytest.approx(2 / 3 * 1e-3 + 2 * US)
  assert "does not form a box" in web.warnings[0]


def test_slowest_group_determines_the_time():
  both = seconds("v5e:4x4", "all-gather", 45e6, ((0, 1), (4, 5, 6, 7)))
  alone = seconds("v5e:4x4", "all-gather", 45e6, ((4, 5, 6, 7),))
  assert both == pytest.approx(alone)
