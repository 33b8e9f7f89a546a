import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from bigscale.metrics.fid import (
  FeatureMoments,
  frechet_distance,
  frechet_distance_infinity,
)
from bigscale.spec import SpecError


def _gaussian(rng, dimension):
  root = rng.normal(size=(dimension, dimension))
  return FeatureMoments(1000, rng.normal(size=dimension), root @ root.T)


def test_distance_of_diagonal_gaussians_is_known():
  a = FeatureMoments(10, np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
  b = FeatureMoments(10, np.array([3.0, 5.0]), np.diag([1.0, 16.0]))
  # ||(3, 4)||^2 + (2 - 1)^2 + (3 - 4)^2
  assert frechet_distance(a, b) == pytest.approx(27.0, rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 5, 64])
def test_distance_agrees_with_scipys_square_root(dimension):
  rng = np.random.default_rng(dimension)
  a, b = _gaussian(rng, dimension), _gaussian(rng, dimension)
  root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
  expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
    a.covariance + b.covariance - 2 * np.real(root)
  )
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_distance_is_symmetric_and_zero_to_itself():
  rng = np.random.default_rng(0)
  a, b = _gaussian(rng, 8), _gaussian(rng, 8)
  assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
  assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_distance_is_stable_where_covariances_are_singular():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40)) * 100
  moments = FeatureMoments.of(rows)
  shifted = moments._replace(mean=moments.mean + 1e-3)
  assert frechet_distance(moments, moments) < 1e-8
  assert frechet_distance(moments, shifted) == pytest.approx(40e-6, abs=1e-8)


def test_moments_match_numpy():
  rows = np.random.default_rng(0).normal(3, 2, (50, 4))
  moments = FeatureMoments.of(rows)
  assert moments.count == 50
  np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
  np.testing.assert_allclose(
    moments.covariance, np.cov(rows, rowvar=False), rtol=1e-10
  )


def test_streamed_and_merged_moments_equal_the_whole():
  # With this offset, a plain sum of squares would lose its digits.
  rows = np.random.default_rng(0).normal(1e4, 1, (100, 4)).astype(np.float32)
  streamed = FeatureMoments.empty(4)
  for start, end in [(0, 1), (1, 1), (1, 40), (40, 41)]:
    streamed = streamed.update(rows[start:end])
  merged = FeatureMoments.of(rows[41:]).merge(streamed)
  whole = FeatureMoments.of(rows)
  assert merged.count == whole.count
  np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
  np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-8)


def test_too_few_samples_are_refused():
  rng = np.random.default_rng(0)
  enough, few = rng.normal(size=(9, 8)), rng.normal(size=(8, 8))
  assert (
    frechet_distance(FeatureMoments.of(enough), FeatureMoments.of(enough))
    < 1e-10
  )
  with pytest.raises(SpecError, match=r"8 samples.* needs at least 9"):
    frechet_distance(FeatureMoments.of(enough), FeatureMoments.of(few))


def test_features_of_other_networks_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(SpecError, match="length 2 and 3"):
    frechet_distance(_gaussian(rng, 2), _gaussian(rng, 3))


def test_features_that_are_not_finite_are_refused():
  rows = np.zeros((5, 2))
  rows[3, 1] = np.nan
  with pytest.raises(SpecError, match="1 of 5 samples"):
    FeatureMoments.of(rows)


def test_infinity_removes_the_bias_of_the_sample_count():
  rng = np.random.default_rng(0)
  samples = rng.normal(0, 1, (2000, 16))
  reference = FeatureMoments(10**6, np.full(16, 0.1), np.eye(16))
  result = frechet_distance_infinity(samples, reference)
  biased = frechet_distance(FeatureMoments.of(samples[:200]), reference)
  assert biased > 3 * 0.16
  assert result.distance == pytest.approx(0.16, abs=0.05)
  # For D = 16 features the bias is about (D + D (D + 1) / 4) / N.
  assert result.slope == pytest.approx(84, rel=0.3)
  assert 0 < result.standard_error < 0.05
  assert 0 < result.slope_standard_error < 0.2 * result.slope


def test_infinity_is_the_fitted_line(monkeypatch):
  counts, means = [], []

  def on_a_line(moments, reference):
    counts.append(moments.count)
    means.append(moments.mean)
    return 3 + 40 / moments.count + 0.01 * (-1) ** len(counts)

  monkeypatch.setattr("bigscale.metrics.fid.frechet_distance", on_a_line)
  samples = np.random.default_rng(0).normal(size=(1500, 2))
  result = frechet_distance_infinity(samples, FeatureMoments.of(samples))
  assert counts == list(np.linspace(150, 1500, 15).astype(int))
  # Without replacement: only the last subset contains all samples.
  np.testing.assert_allclose(means[-1], samples.mean(0), atol=1e-12)
  assert len({tuple(mean) for mean in means}) == 15
  expected = scipy.stats.linregress(
    1 / np.array(counts),
    [
      3 + 40 / count + 0.01 * (-1) ** index
      for index, count in enumerate(counts, 1)
    ],
  )
  assert result == pytest.approx(
    (
      expected.intercept,
      expected.intercept_stderr,
      expected.slope,
      expected.stderr,
    ),
    rel=1e-6,
  )
  assert result.distance == pytest.approx(3, abs=0.02)


def test_infinity_depends_on_the_seed():
  rows = np.random.default_rng(0).normal(size=(100, 3))
  runs = [
    frechet_distance_infinity(rows, FeatureMoments.of(rows), seed=seed)
    for seed in (0, 0, 1)
  ]
  assert runs[0] == runs[1]
  assert runs[0].distance != runs[2].distance


def test_infinity_of_too_few_samples_is_refused():
  rows = np.random.default_rng(0).normal(size=(49, 4))
  with pytest.raises(SpecError, match=r"49 samples .* give at least 50"):
    frechet_distance_infinity(rows, FeatureMoments.of(rows))
  with pytest.raises(SpecError, match="points=2"):
    frechet_distance_infinity(rows, FeatureMoments.of(rows), points=2)
