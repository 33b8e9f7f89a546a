"""Nearest-neighbor scores: precision, recall, density and coverage.

*   Precision and recall (Kynkäänniemi et al. 2019) use a ball around each image
    that reaches to its k-th nearest neighbor in its own set, with k = 3.
    Precision is the share of samples inside some ball of a real. Recall is the
    share of reals inside some ball of a sample. Points on a boundary are
    inside.
*   Density and coverage (Naeem et al. 2020) use balls of reals with k = 5.
    Density is the mean number of balls that contain a sample, divided by k: 1
    if both sets agree, possibly more. Coverage is the share of balls that
    contain any sample. Points on a boundary are outside, as in the authors'
    code.

All four depend on the number of samples, so compare only equal counts.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from bigscale.metrics.distances import (
  DEFAULT_TILES,
  Tiles,
  count_within,
  nearest,
)
from bigscale.metrics.features import Seen
from bigscale.spec import ScoreKind, require


class PrecisionRecall(NamedTuple):
  """The four scores, each in [0, 1] except `density`, which is 0 or more."""

  precision: float
  recall: float
  density: float
  coverage: float


def precision_recall(
  samples_nd: np.ndarray,
  reals_md: np.ndarray,
  *,
  k: int = 3,
  density_k: int = 5,
  tiles: Tiles = DEFAULT_TILES,
) -> PrecisionRecall:
  """Scores samples against reals.

  Args:
    samples_nd: [N, D] features of generated images.
    reals_md: [M, D] features of real images; use M = N to compare with other
      results.
    k: neighbor that the balls of precision and recall reach to.
    density_k: neighbor that the balls of density and coverage reach to.
    tiles: number of pairs compared at once, which bounds memory.

  Raises:
    SpecError: a set has too few rows for that many neighbors, or features
      differ in length or are not finite.
  """
  require(
    min(k, density_k) >= 1,
    f"k={k} and density_k={density_k} must both be 1 or more",
  )
  for name, count, needed in (
    ("samples", len(samples_nd), k + 1),
    ("reals", len(reals_md), max(k, density_k) + 1),
  ):
    require(
      count >= needed,
      f"{count} {name} are too few for precision_recall with k={k} and "
      f"density_k={density_k}, which needs at least {needed}; give more "
      f"{name}",
    )
  # Every row is its own nearest row, so its k-th neighbor has index k.
  between_reals = nearest(
    reals_md, reals_md, max(k, density_k) + 1, tiles
  ).distances
  between_samples = nearest(samples_nd, samples_nd, k + 1, tiles).distances
  near_reals = count_within(
    samples_nd, reals_md, between_reals[:, k], "inside", tiles
  )
  near_samples = count_within(
    reals_md, samples_nd, between_samples[:, k], "inside", tiles
  )
  held = count_within(
    samples_nd, reals_md, between_reals[:, density_k], "outside", tiles
  )
  return PrecisionRecall(
    precision=float((near_reals.balls_of_point > 0).mean()),
    recall=float((near_samples.balls_of_point > 0).mean()),
    density=float(held.balls_of_point.mean() / density_k),
    coverage=float((held.points_of_ball > 0).mean()),
  )


def _score(samples: Seen, reals: Seen) -> dict[str, float]:
  """Computes all four scores at once, because they share neighbor searches."""
  return precision_recall(samples.features, reals.features)._asdict()


PRECISION_RECALL = ScoreKind(
  name="pr",
  columns={"precision": "more", "recall": "more"},
  compute=_score,
  keeps=("features",),
  single_reals=True,
  # One more than the number of neighbors.
  fewest_samples=4,
  fewest_reals=6,
)
DENSITY_COVERAGE = dataclasses.replace(
  PRECISION_RECALL,
  name="dc",
  columns={"density": "more", "coverage": "more"},
)
