import numpy as np
import pytest

from bigscale.metrics.kid import kid, mmd_squared
from bigscale.spec import SpecError


def _direct(x, y):
  """Computes the definition pair by pair."""

  def kernel(a, b):
    return (np.dot(a, b) / len(a) + 1) ** 3

  def others(rows):
    return [
      kernel(a, b)
      for i, a in enumerate(rows)
      for j, b in enumerate(rows)
      if i != j
    ]

  across = [kernel(a, b) for a in x for b in y]
  return np.mean(others(x)) + np.mean(others(y)) - 2 * np.mean(across)


@pytest.mark.parametrize("tile", [1, 7, 2048])
def test_chunked_estimate_is_the_sum_over_pairs(tile):
  rng = np.random.default_rng(0)
  x = rng.normal(3, 1, (23, 5)).astype(np.float32)
  y = rng.normal(3.5, 1, (16, 5)).astype(np.float32)
  expected = _direct(x.astype(np.float64), y.astype(np.float64))
  assert abs(expected) > 1
  assert mmd_squared(x, y, tile=tile) == pytest.approx(expected, rel=1e-10)
  assert mmd_squared(y, x, tile=tile) == pytest.approx(expected, rel=1e-10)


def test_distance_of_constant_sets_is_known():
  # In one dimension, with all points equal to a or b: k(a,a)+k(b,b)-2k(a,b).
  a, b = np.full((4, 1), 1.0), np.full((6, 1), 2.0)
  assert mmd_squared(a, b) == pytest.approx(2**3 + 5**3 - 2 * 3**3)


def test_equal_distributions_score_about_zero():
  rng = np.random.default_rng(0)
  x, y = rng.normal(1, 1, (2, 600, 8))
  scores = kid(x, y, subsets=30, subset_size=100)
  assert abs(scores["kid"]) < 2 * scores["kid_standard_error"]
  assert abs(mmd_squared(x, y)) < 2 * scores["kid_standard_error"]
  other = kid(x, y + 0.3, subsets=30, subset_size=100)
  assert other["kid"] > 5 * other["kid_standard_error"]


def test_blocks_estimate_the_value_of_all_pairs():
  rng = np.random.default_rng(0)
  x, y = rng.normal(0, 1, (500, 4)), rng.normal(0.5, 1, (400, 4))
  scores = kid(x, y, subsets=200, subset_size=50)
  error = scores["kid_standard_error"]
  assert scores["kid"] == pytest.approx(mmd_squared(x, y), abs=2 * error)
  assert error < 0.3 * scores["kid"]


def test_standard_error_matches_the_spread_over_new_samples():
  rng = np.random.default_rng(0)
  scores = [
    kid(
      rng.normal(0.5, 1, (200, 4)),
      rng.normal(0, 1, (200, 4)),
      subsets=20,
      subset_size=50,
      seed=seed,
    )
    for seed in range(60)
  ]
  spread = np.std([score["kid"] for score in scores], ddof=1)
  errors = [score["kid_standard_error"] for score in scores]
  # The standard error over 20 independent blocks would be 0.4 of the spread.
  assert 0.75 < np.sqrt(np.mean(np.square(errors))) / spread < 1.4


def test_blocks_depend_on_the_seed():
  x, y = np.random.default_rng(0).normal(size=(2, 40, 3))
  scores = [kid(x, y, subsets=3, subset_size=10, seed=s) for s in (0, 0, 1)]
  assert scores[0] == scores[1]
  assert scores[0]["kid"] != scores[2]["kid"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({}, r"40 samples or reals .* give 2000 or use subset_size=20"),
    ({"subset_size": 21}, "use subset_size=20"),
    ({"subset_size": 1}, "subset_size=1"),
    ({"subsets": 1}, "subsets=1"),
    ({"reals_md": np.zeros((50, 2))}, "length 3 and 2"),
    ({"reals_md": np.full((50, 3), np.inf)}, "50 of 50"),
  ],
)
def test_invalid_arguments_are_refused(changes, message):
  x = np.random.default_rng(0).normal(size=(40, 3))
  arguments = {"samples_nd": x, "reals_md": x, **changes}
  with pytest.raises(SpecError, match=message):
    kid(**arguments)


def test_a_single_row_has_no_pairs():
  x = np.ones((3, 2))
  with pytest.raises(SpecError, match="1 rows have no pairs"):
    mmd_squared(x, x[:1])
