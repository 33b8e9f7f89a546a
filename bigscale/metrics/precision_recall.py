"""Precision and recall by nearest neighbours, density and coverage.

*   Precision and recall (Kynkäänniemi et al. 2019): the share of samples that
    lie in some ball around a real which reaches to its k-th nearest real, and
    of reals in some such ball around a sample; k = 3, boundaries inside.
*   Density and coverage (Naeem et al. 2020): over k, how many such balls of
    reals hold a sample on average (1 where both agree; may exceed 1), and the
    share of these balls that hold any sample; k = 5, boundaries outside, as
    in the authors' code.

All four depend on the numbers of samples: compare equal counts only.
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
  """Each in [0, 1], but for `density`, which is 0 or more."""

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
    reals_md: [M, D] of real ones; as many as samples, to compare with others.
    k: neighbour that precision's and recall's balls reach to.
    density_k: neighbour that density's and coverage's balls reach to.
    tiles: pairs that are compared at once; bounds memory.

  Raises:
    SpecError: a set has too few rows to have so many neighbours, features are
      of different length or not finite.
  """
  require(
    min(k, density_k) >= 1,
    f"k={k} and density_k={density_k} must name a neighbour; use 1 or more",
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
  # Every row is its own nearest, at distance 0: the k-th other has index k.
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
  """All four at once: they share their searches for neighbours."""
  return precision_recall(samples.features, reals.features)._asdict()


PRECISION_RECALL = ScoreKind(
  name="pr",
  columns={"precision": "more", "recall": "more"},
  compute=_score,
  keeps=("features",),
  single_reals=True,
  # As many neighbours, and one more.
  fewest_samples=4,
  fewest_reals=6,
)
DENSITY_COVERAGE = dataclasses.replace(
  PRECISION_RECALL,
  name="dc",
  columns={"density": "more", "coverage": "more"},
)
