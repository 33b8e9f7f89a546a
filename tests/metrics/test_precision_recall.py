import numpy as np
import pytest

from bigscale.metrics.distances import Tiles
from bigscale.metrics.precision_recall import precision_recall
from bigscale.spec import SpecError

SMALL = Tiles(rows=32, reference=64)


def _modes(per_mode, modes=4, seed=0):
  """Returns rows of distant modes, [modes * per_mode, 8], mode by mode."""
  rng = np.random.default_rng(seed)
  centers = 100 * np.eye(8)[:modes]
  return np.concatenate([c + rng.normal(size=(per_mode, 8)) for c in centers])


def _direct(samples, reals, k, density_k):
  """Computes the definitions from matrices of all distances."""

  def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)

  def radii(rows, k):
    return np.sort(distances(rows, rows), axis=1)[:, k]

  between = distances(samples, reals)
  in_balls = between < radii(reals, density_k)[None]
  return {
    "precision": (between <= radii(reals, k)[None]).any(1).mean(),
    "recall": (between <= radii(samples, k)[:, None]).any(0).mean(),
    "density": in_balls.sum(1).mean() / density_k,
    "coverage": in_balls.any(0).mean(),
  }


@pytest.mark.parametrize(("k", "density_k"), [(3, 5), (5, 2)])
def test_scores_match_all_pairs(k, density_k):
  rng = np.random.default_rng(0)
  reals = rng.normal(20, 1, (150, 8))
  samples = rng.normal(20, 0.7, (110, 8)) + 0.5 * np.eye(8)[0]
  scores = precision_recall(
    samples, reals, k=k, density_k=density_k, tiles=SMALL
  )
  expected = _direct(samples, reals, k, density_k)
  assert len(set(expected.values())) == 4
  assert all(value > 0.05 for value in expected.values())
  assert scores._asdict() == pytest.approx(expected, rel=1e-12)


def test_reals_score_one_against_themselves():
  reals = _modes(25)
  scores = precision_recall(reals, reals, tiles=SMALL)
  assert scores == (1.0, 1.0, pytest.approx(1.0, rel=1e-12), 1.0)


def test_disjoint_sets_score_zero():
  reals = _modes(25)
  assert precision_recall(reals + 50, reals, tiles=SMALL) == (0, 0, 0, 0)


def test_dropped_modes_lower_recall_and_coverage():
  reals = _modes(25)
  scores = precision_recall(reals[:75], reals, tiles=SMALL)
  assert scores == (1.0, 0.75, pytest.approx(1.0, rel=1e-12), 0.75)


def test_invented_modes_lower_precision_and_density():
  reals = _modes(25, modes=3)
  samples = _modes(25, modes=4)
  scores = precision_recall(samples, reals, tiles=SMALL)
  assert scores == (0.75, 1.0, pytest.approx(0.75, rel=1e-12), 1.0)


def test_boundaries_are_inside_for_precision_and_recall():
  # Balls to the third neighbor: 0 +- 3, 1 +- 2, 2 +- 2, 3 +- 3.
  line = np.array([[0.0], [1], [2], [3]])
  around = np.array([[-4.0], [-3], [6], [7], [50], [51]])
  assert precision_recall(around, line, density_k=1).precision == 2 / 6
  assert precision_recall(line, around, density_k=1).recall == 2 / 6


@pytest.mark.parametrize(
  ("num_samples", "num_reals", "message"),
  [
    (3, 20, r"3 samples are too few .* at least 4; give more samples"),
    (20, 5, r"5 reals are too few .* at least 6; give more reals"),
  ],
)
def test_too_few_rows_are_refused(num_samples, num_reals, message):
  rows = np.random.default_rng(0).normal(size=(20, 2))
  with pytest.raises(SpecError, match=message):
    precision_recall(rows[:num_samples], rows[:num_reals])


def test_zero_neighbors_are_refused():
  rows = np.random.default_rng(0).normal(size=(20, 2))
  with pytest.raises(SpecError, match="density_k=0"):
    precision_recall(rows, rows, density_k=0)
