import numpy as np
import pytest

from bigscale.metrics.distances import Tiles
from bigscale.metrics.neighbors import memorization
from bigscale.spec import SpecError

SMALL = Tiles(rows=32, reference=64)


@pytest.fixture(scope="module")
def reals():
  """300 train reals and 60 held-out reals, [N, 8]."""
  rows = np.random.default_rng(0).normal(10, 1, (360, 8))
  return rows[:300], rows[300:]


def test_new_reals_have_a_ratio_of_about_one(reals):
  train, heldout = reals
  samples = np.random.default_rng(1).normal(10, 1, (200, 8))
  result = memorization(samples, [train], heldout, tiles=SMALL)
  assert result.memorization_ratio == pytest.approx(1.0, abs=0.1)
  assert result.neighbors.indices.shape == (200, 5)
  every = np.linalg.norm(heldout[:, None] - train[None], axis=-1)
  assert result.heldout_distance == pytest.approx(np.median(every.min(1)))
  np.testing.assert_allclose(
    result.ratios, result.neighbors.distances[:, 0] / result.heldout_distance
  )
  assert result.memorization_ratio == np.median(result.ratios)


def test_copies_are_found_and_have_a_ratio_far_below_one(reals):
  train, heldout = reals
  rows = np.random.default_rng(1).integers(0, 300, 60)
  noise = np.random.default_rng(2).normal(0, 1e-2, (60, 8))
  noise[:10] = 0
  result = memorization(train[rows] + noise, [train], heldout, k=1, tiles=SMALL)
  np.testing.assert_array_equal(result.neighbors.indices[:, 0], rows)
  assert result.ratios[:10].tolist() == [0] * 10
  assert 0 < result.memorization_ratio < 0.05


def test_a_train_split_in_parts_is_the_same_as_in_one(reals):
  train, heldout = reals
  whole = memorization(heldout[:20], [train], heldout, tiles=SMALL)
  # The second part has fewer than k rows.
  parts = iter([train[:140], train[140:143], train[143:]])
  split = memorization(heldout[:20], parts, heldout, tiles=SMALL)
  np.testing.assert_array_equal(
    split.neighbors.indices, whole.neighbors.indices
  )
  np.testing.assert_allclose(split.ratios, whole.ratios, rtol=1e-12)


def test_heldout_reals_from_the_train_split_are_refused(reals):
  train, heldout = reals
  mixed = np.concatenate([heldout[:9], train[:10]])
  with pytest.raises(SpecError, match="10 of 19 held-out reals have a copy"):
    memorization(heldout, [train], mixed, tiles=SMALL)


@pytest.mark.parametrize(
  ("counts", "message"),
  [
    ((0, 300, 60), "there are no samples"),
    ((9, 300, 0), "there are no held-out reals"),
    ((9, 4, 60), "4"),
  ],
)
def test_too_few_images_are_refused(reals, counts, message):
  train, heldout = reals
  with pytest.raises(SpecError, match=message):
    memorization(
      heldout[: counts[0]], [train[: counts[1]]], heldout[: counts[2]]
    )
