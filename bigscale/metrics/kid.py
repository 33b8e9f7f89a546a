"""Kernel distance between features (Binkowski et al. 2018).

This is the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.
The estimator is unbiased, so scores of different sample counts are comparable;
it may be negative. It is plain numpy in float64 because the score is a small
difference of large sums.
"""

from typing import TYPE_CHECKING

import numpy as np

from bigscale.metrics.fid import require_comparable, require_finite
from bigscale.parallel import interruption
from bigscale.spec import ScoreKind, require

if TYPE_CHECKING:
  from bigscale.metrics.features import Seen

# Rows per block, if both sets have enough rows for two such blocks.
_BLOCK = 1000


def kid(
  samples_nd: np.ndarray,
  reals_md: np.ndarray,
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 0,
) -> dict[str, float]:
  """Returns the mean score over random blocks of both sets.

  Args:
    samples_nd: [N, D] features of generated images.
    reals_md: [M, D] features of real images.
    subsets: number of blocks, 2 or more.
    subset_size: number of rows that a block takes from each set, without
      replacement.
    seed: seed of the blocks.

  Returns:
    `kid` and `kid_standard_error`. Blocks share rows, so the spread over blocks
    alone would underestimate the error. Its square here is
    var (S / (N - S) + 1 / blocks), where a block has S of N rows. This is the
    delete-(N - S) jackknife (Shao and Wu 1989) plus the variance due to the
    limited number of blocks. For equal distributions it tends to be too large.

  Raises:
    SpecError: there are fewer than two blocks of two rows, a set is smaller
      than two blocks, or features differ in length or are not finite.
  """
  _check(samples_nd, reals_md)
  require(
    subsets >= 2 and subset_size >= 2,
    f"subsets={subsets} of subset_size={subset_size} have no spread; use 2 or "
    "more of both",
  )
  smaller = min(len(samples_nd), len(reals_md))
  require(
    smaller >= 2 * subset_size,
    f"{smaller} samples or reals are too few for KID with "
    f"subset_size={subset_size}, which needs at least twice as many; give "
    f"{2 * subset_size} or use subset_size={max(smaller // 2, 2)}",
  )
  rng = np.random.default_rng(seed)
  # Two streams: the choice of samples must not depend on the number of reals.
  of_samples, of_reals = rng.spawn(2)

  def block(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    interruption.point()
    return features[rng.choice(len(features), subset_size, replace=False)]

  scores = [
    mmd_squared(block(samples_nd, of_samples), block(reals_md, of_reals))
    for _ in range(subsets)
  ]
  share = subset_size / (smaller - subset_size)
  variance = np.var(scores, ddof=1) * (share + 1 / subsets)
  return {
    "kid": float(np.mean(scores)),
    "kid_standard_error": float(np.sqrt(variance)),
  }


def mmd_squared(
  x_nd: np.ndarray, y_md: np.ndarray, *, tile: int = 2048
) -> float:
  """Returns the unbiased estimate from all pairs of rows.

  Args:
    x_nd: [N, D] of any real dtype, N >= 2.
    y_md: [M, D], M >= 2.
    tile: side of a tile; tile x tile pairs are computed at once, which bounds
      memory.

  Raises:
    SpecError: a set has fewer than two rows, the tile is below 1, or features
      differ in length or are not finite.
  """
  _check(x_nd, y_md)
  n, m = len(x_nd), len(y_md)
  require(
    min(n, m) >= 2,
    f"{min(n, m)} rows have no pairs, and KID compares pairs; give 2 or more",
  )
  require(tile >= 1, f"tile={tile} must be 1 or more")
  within_x = _kernel_sum_of_others(x_nd, tile) / (n * (n - 1))
  within_y = _kernel_sum_of_others(y_md, tile) / (m * (m - 1))
  return within_x + within_y - 2 * _kernel_sum(x_nd, y_md, tile) / (n * m)


def _kernel(products: np.ndarray, dimension: int) -> np.ndarray:
  return (products / dimension + 1) ** 3


def _kernel_sum(x_nd: np.ndarray, y_md: np.ndarray, tile: int) -> float:
  """Returns the kernel's sum over all pairs (x, y)."""
  total = 0.0
  for i in range(0, len(x_nd), tile):
    x = x_nd[i : i + tile].astype(np.float64)
    for j in range(0, len(y_md), tile):
      y = y_md[j : j + tile].astype(np.float64)
      total += float(_kernel(x @ y.T, x.shape[1]).sum())
  return total


def _kernel_sum_of_others(x_nd: np.ndarray, tile: int) -> float:
  """Returns the kernel's sum over all pairs of different rows of one set."""
  total = 0.0
  for i in range(0, len(x_nd), tile):
    x = x_nd[i : i + tile].astype(np.float64)
    own = _kernel(x @ x.T, x.shape[1])
    total += float(own.sum() - np.trace(own))
    # Each pair of rows from two different tiles counts twice.
    total += 2 * _kernel_sum(x, x_nd[i + tile :], tile)
  return total


def _check(a_nd: np.ndarray, b_md: np.ndarray) -> None:
  require_comparable(a_nd.shape[1], b_md.shape[1])
  require_finite(a_nd)
  require_finite(b_md)


def _score(samples: "Seen", reals: "Seen") -> dict[str, float]:
  smaller = min(len(samples.features), len(reals.features))
  block = max(2, min(_BLOCK, smaller // 2))
  return kid(samples.features, reals.features, subset_size=block)


KID = ScoreKind(
  name="kid",
  columns={"kid": "less", "kid_standard_error": None},
  compute=_score,
  keeps=("features",),
  single_reals=True,
  # Two blocks of two rows each.
  fewest_samples=4,
  fewest_reals=4,
)
