import numpy as np
import pytest

from bigscale.sampling import interpolate

_ENDS = np.random.default_rng(0).standard_normal((2, 6, 40)).astype("f4")


@pytest.mark.parametrize("path", interpolate.PATHS.values())
def test_paths_go_from_end_to_end(path):
  start, end = _ENDS
  steps = path(start, end, 5)
  assert (steps.shape, steps.dtype) == ((6, 5, 40), np.float32)
  np.testing.assert_allclose(steps[:, 0], start, atol=1e-6)
  np.testing.assert_allclose(steps[:, -1], end, atol=1e-6)
  # The reverse path visits the same points.
  np.testing.assert_allclose(path(end, start, 5)[:, ::-1], steps, atol=1e-6)


def test_linear_steps_are_equal():
  steps = interpolate.linear(*_ENDS, 5)
  moves = np.diff(steps, axis=1)
  np.testing.assert_allclose(moves, moves[:, :1].repeat(4, 1), atol=1e-6)


def test_spherical_keeps_length_and_angular_speed():
  start, end = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in _ENDS)
  steps = interpolate.spherical(start, end, 7)
  np.testing.assert_allclose(np.linalg.norm(steps, axis=2), 1, atol=1e-6)
  cosines = np.sum(steps[:, :-1] * steps[:, 1:], axis=2)
  whole = np.arccos(np.sum(start * end, axis=1))
  np.testing.assert_allclose(
    np.arccos(cosines), (whole / 6)[:, None].repeat(6, 1), atol=1e-4
  )
  # A straight line has shorter vectors in the middle.
  middle = interpolate.linear(start, end, 3)[:, 1]
  assert (np.linalg.norm(middle, axis=1) < 0.9).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_spherical_without_an_arc_is_straight(factor):
  start = _ENDS[0]
  np.testing.assert_allclose(
    interpolate.spherical(start, factor * start, 5),
    interpolate.linear(start, factor * start, 5),
    atol=1e-6,
  )


def test_class_shares():
  shares = interpolate.class_shares((3, 1), 4, 5)
  assert (shares.shape, shares.dtype) == ((5, 4), np.float32)
  np.testing.assert_allclose(shares.sum(axis=1), 1)
  np.testing.assert_array_equal(shares[0], [0, 0, 0, 1])
  np.testing.assert_allclose(shares[1], [0, 0.25, 0, 0.75])
  np.testing.assert_array_equal(shares[-1], [0, 1, 0, 0])
