"""Kernel distance between features (Binkowski et al. 2018).

The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, in its
unbiased form, so that scores of different counts compare; it may be negative.
Plain numpy in float64: the score is a small difference of large sums.
"""

from typing import TYPE_CHECKING

import numpy as np

from bigscale.metrics.fid import require_comparable, require_finite
from bigscale.parallel import interruption
from bigscale.spec import ScoreKind, require

if TYPE_CHECKING:
  from bigscale.metrics.features import Seen

# Rows of a block, where there are two such blocks.
_BLOCK = 1000


def kid(
  samples_nd: np.ndarray,
  reals_md: np.ndarray,
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 0,
) -> dict[str, float]:
  """The mean over random blocks of both sets.

  Args:
    samples_nd: [N, D] features of generated images.
    reals_md: [M, D] of real ones.
    subsets: blocks; 2 or more.
    subset_size: rows of each block, of either set, without replacement.
    seed: of the blocks.

  Returns:
    `kid` and `kid_standard_error`. Blocks share rows, so the spread over them
    alone would make the error too small; its square here is
    var (S / (N - S) + 1 / blocks), with S of N rows in a block: the
    delete-(N - S) jackknife (Shao and Wu 1989) and what a finite number of
    blocks adds. Of equal distributions it is too large rather.

  Raises:
    SpecError: fewer than two blocks of two rows, a set smaller than two
      blocks, features of different length or not finite.
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
  # Two streams: which samples are drawn is not to depend on the reals' number.
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
  """The unbiased estimate from all pairs of rows.

  Args:
    x_nd: [N, D] of any real type, N >= 2.
    y_md: [M, D], M >= 2.
    tile: pairs computed at once are tile x tile; bounds memory.

  Raises:
    SpecError: a set of fewer than two rows, a tile below 1, features of
      different length or not finite.
  """
  _check(x_nd, y_md)
  n, m = len(x_nd), len(y_md)
  require(
    min(n, m) >= 2,
    f"{min(n, m)} rows have no pairs, and KID compares pairs; give 2 or more",
  )
  require(tile >= 1, f"tile={tile} holds no pairs; use 1 or more")
  within_x = _kernel_sum_of_others(x_nd, tile) / (n * (n - 1))
  within_y = _kernel_sum_of_others(y_md, tile) / (m * (m - 1))
  return within_x + within_y - 2 * _kernel_sum(x_nd, y_md, tile) / (n * m)


def _kernel(products: np.ndarray, dimension: int) -> np.ndarray:
  return (products / dimension + 1) ** 3


def _kernel_sum(x_nd: np.ndarray, y_md: np.ndarray, tile: int) -> float:
  """Over all pairs (x, y)."""
  total = 0.0
  for i in range(0, len(x_nd), tile):
    x = x_nd[i : i + tile].astype(np.float64)
    for j in range(0, len(y_md), tile):
      y = y_md[j : j + tile].astype(np.float64)
      total += float(_kernel(x @ y.T, x.shape[1]).sum())
  return total


def _kernel_sum_of_others(x_nd: np.ndarray, tile: int) -> float:
  """Over all pairs of two different rows of one set."""
  total = 0.0
  for i in range(0, len(x_nd), tile):
    x = x_nd[i : i + tile].astype(np.float64)
    own = _kernel(x @ x.T, x.shape[1])
    total += float(own.sum() - np.trace(own))
    # Pairs of two tiles occur twice.
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
  # Two blocks of two.
  fewest_samples=4,
  fewest_reals=4,
)
