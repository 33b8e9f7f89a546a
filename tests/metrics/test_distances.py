import numpy as np
import pytest

from bigscale.metrics.distances import Tiles, count_within, nearest
from bigscale.spec import SpecError

# Tile sizes that divide neither set, so the last tile of both is padded.
SMALL = Tiles(rows=16, reference=32)


@pytest.fixture(scope="module")
def sets():
  """37 rows, and 75 reference rows with copies of some, far from the origin."""
  rng = np.random.default_rng(0)
  rows = rng.normal(1e4, 1, (37, 6))
  reference = rng.normal(1e4, 1, (75, 6))
  reference[[3, 40, 41, 70]] = rows[[0, 5, 5, 36]]
  return rows, reference


def _all_distances(a, b):
  return np.linalg.norm(a[:, None] - b[None], axis=-1)


@pytest.mark.parametrize("tiles", [SMALL, Tiles()])
def test_nearest_matches_all_pairs(sets, tiles):
  rows, reference = sets
  every = _all_distances(rows, reference)
  found = nearest(rows, reference, 4, tiles)
  expected = np.sort(every, axis=1)[:, :4]
  np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
  # Indices are equal too, up to the order of ties.
  np.testing.assert_array_equal(
    np.take_along_axis(every, found.indices, 1), found.distances
  )
  assert all(len(set(row)) == 4 for row in found.indices.tolist())


def test_copies_have_distance_zero(sets):
  rows, reference = sets
  found = nearest(rows, reference, 4, SMALL)
  assert found.distances[[0, 5, 36], 0].tolist() == [0, 0, 0]
  assert found.indices[[0, 36], 0].tolist() == [3, 70]
  assert sorted(found.indices[5, :2].tolist()) == [40, 41]
  assert (found.distances[[0, 36], 1] > 0).all()


def test_rows_closer_than_float32_resolves_are_ordered():
  # They differ by 1e-6 of the set's spread, so float32 distances are noise.
  reference = np.random.default_rng(0).normal(size=(60, 6))
  steps = 1e-6 * np.array([3.0, 1.0, 4.0, 2.0])
  reference[[5, 20, 35, 50]] = 3 + steps[:, None]
  found = nearest(np.full((16, 6), 3.0), reference, 4, SMALL)
  assert found.indices.tolist() == [[20, 50, 5, 35]] * 16
  np.testing.assert_allclose(
    found.distances[0], np.sort(steps) * np.sqrt(6), rtol=1e-8
  )


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_results_do_not_depend_on_units(sets, unit):
  rows, reference = sets
  scaled = nearest(rows * unit, reference * unit, 4, SMALL)
  plain = nearest(rows, reference, 4, SMALL)
  np.testing.assert_allclose(scaled.distances, plain.distances * unit, 1e-9)
  held = [
    count_within(rows * u, reference * u, np.full(75, 2.5) * u, "inside", SMALL)
    for u in (1.0, unit)
  ]
  assert 0 < held[0].balls_of_point.sum() < 37 * 75
  np.testing.assert_array_equal(held[0].balls_of_point, held[1].balls_of_point)


@pytest.mark.parametrize("boundary", ["inside", "outside"])
def test_counts_match_all_pairs(sets, boundary):
  rows, reference = sets
  radii = np.random.default_rng(1).uniform(2, 4, len(reference))
  held = count_within(rows, reference, radii, boundary, SMALL)
  inside = _all_distances(rows, reference) < radii[None]
  np.testing.assert_array_equal(held.balls_of_point, inside.sum(1))
  np.testing.assert_array_equal(held.points_of_ball, inside.sum(0))


def test_boundary_argument_is_respected():
  rng = np.random.default_rng(0)
  # Two distant modes: float32 barely resolves the distances within a mode.
  points = rng.normal(0, 1, (40, 6)) + 1e3 * (np.arange(40) % 2)[:, None]
  radii = nearest(points, points, 4, SMALL).distances[:, 3]
  # A ball to the third neighbor contains its center and three neighbors.
  within = count_within(points, points, radii, "inside", SMALL)
  assert within.points_of_ball.tolist() == [4] * 40
  without = count_within(points, points, radii, "outside", SMALL)
  assert without.points_of_ball.tolist() == [3] * 40


def test_balls_of_radius_zero_contain_only_copies(sets):
  rows, reference = sets
  radii = np.zeros(len(reference))
  held = count_within(rows, reference, radii, "inside", SMALL)
  assert np.flatnonzero(held.points_of_ball).tolist() == [3, 40, 41, 70]
  assert held.balls_of_point[5] == 2
  held = count_within(rows, reference, radii, "outside", SMALL)
  assert held.points_of_ball.sum() == 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"k": 0}, "k=0"),
    ({"k": 76}, "75 reference rows are fewer than k=76 neighbors"),
    ({"tiles": Tiles(0, 1)}, r"tiles=\(0, 1\)"),
    ({"reference_md": np.zeros((9, 5))}, "length 6 and 5"),
    ({"rows_nd": np.full((2, 6), np.nan)}, "2 of 2 samples"),
  ],
)
def test_invalid_arguments_are_refused(sets, changes, message):
  arguments = {"rows_nd": sets[0], "reference_md": sets[1], "k": 1, **changes}
  with pytest.raises(SpecError, match=message):
    nearest(**arguments)
