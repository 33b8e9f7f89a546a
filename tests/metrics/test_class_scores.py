"""Scores of the classes that a classifier predicts for samples."""

import numpy as np
import pytest

from bigscale.metrics.class_scores import inception_score, mode_coverage
from bigscale.spec import SpecError


def test_equal_predictions_score_one():
  row = np.array([0.5, 0.3, 0.2, 0.0])
  for probabilities in (np.full((100, 4), 0.25), np.tile(row, (100, 1))):
    scores = inception_score(probabilities)
    assert scores["is"] == pytest.approx(1.0, rel=1e-12)
    assert scores["is_std"] == pytest.approx(0.0, abs=1e-12)


def test_certain_balanced_predictions_score_the_number_of_classes():
  probabilities = np.tile(np.eye(4, dtype=np.float32), (25, 1))
  scores = inception_score(probabilities, splits=5)
  assert scores["is"] == pytest.approx(4.0, rel=1e-12)
  assert scores["is_std"] == pytest.approx(0.0, abs=1e-12)


def test_score_matches_the_definition_in_each_split():
  p = np.random.default_rng(0).dirichlet(np.ones(3), 32)
  # Splits of 32 samples in three: 10, 11 and 11, as in the authors' code.
  scores = []
  for part in (p[:10], p[10:21], p[21:]):
    kl = (part * np.log(part / part.mean(0)[None])).sum(1)
    scores.append(np.exp(kl.mean()))
  result = inception_score(p, splits=3)
  assert result["is"] == pytest.approx(np.mean(scores), rel=1e-12)
  assert result["is_std"] == pytest.approx(np.std(scores), rel=1e-12)
  assert result["is_std"] > 0.01


def test_splits_are_consecutive():
  # Sorted by class, so each split contains only one class.
  sure = np.eye(4)[np.arange(64) // 16]
  assert inception_score(sure, splits=4)["is"] == pytest.approx(1.0)
  assert inception_score(sure, splits=1)["is"] == pytest.approx(4.0)
  halves = inception_score(sure[:48], splits=2)
  # A split has 16 and 8 of 24 samples from two classes: exp(H(2/3)).
  expected = np.exp(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3)
  assert halves["is"] == pytest.approx(expected)


def test_splits_with_fewer_samples_than_classes_are_refused():
  probabilities = np.full((39, 4), 0.25)
  with pytest.raises(
    SpecError, match=r"39 samples .* at least 40 or use fewer"
  ):
    inception_score(probabilities)
  assert inception_score(probabilities, splits=9)["is"] == pytest.approx(1.0)
  with pytest.raises(SpecError, match="splits=0"):
    inception_score(probabilities, splits=0)


@pytest.mark.parametrize("row", [[0.7, 0.7], [1.5, -0.5], [np.nan, 1.0]])
def test_invalid_probabilities_are_refused(row):
  probabilities = np.full((40, 2), 0.5)
  probabilities[7] = row
  with pytest.raises(SpecError, match="1 of 40 rows"):
    inception_score(probabilities)


def test_equal_modes_have_no_divergence():
  assert mode_coverage(np.full(50, 7)) == pytest.approx((50, 0.0))


def test_half_of_the_modes_diverge_by_log_two():
  counts = np.array([3, 0] * 8)
  assert mode_coverage(counts) == pytest.approx((8, np.log(2)))


def test_a_single_mode_diverges_most():
  assert mode_coverage(np.array([0, 9, 0, 0])) == pytest.approx((1, np.log(4)))


def test_uniform_samples_have_the_expected_divergence():
  rng = np.random.default_rng(0)
  counts = np.bincount(rng.integers(0, 1000, 26_000), minlength=1000)
  found = mode_coverage(counts)
  assert found.modes == 1000
  assert found.reverse_kl == pytest.approx(999 / 52_000, rel=0.1)


@pytest.mark.parametrize("counts", [np.zeros(10, int), np.array([4])])
def test_empty_counts_are_refused(counts):
  with pytest.raises(SpecError, match="cover nothing"):
    mode_coverage(counts)
