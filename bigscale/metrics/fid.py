"""Fréchet distance between features (Heusel et al. 2017, eq. 6).

This is plain numpy in float64. The distance of N samples exceeds that of
infinitely many by about a constant over N, so distances are comparable only at
equal sample counts. `frechet_distance_infinity` extrapolates to infinitely many
samples, which makes all counts comparable.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigscale.parallel import interruption
from bigscale.spec import ScoreKind, require

if TYPE_CHECKING:
  from bigscale.metrics.features import Seen


class FeatureMoments(NamedTuple):
  """Mean and covariance of a set of features.

  Attributes:
    count: number of rows; None if the file of the moments does not state it.
      Moments without a count can be compared but not merged.
    mean: [D] float64; zeros if `count` is 0.
    covariance: [D, D] float64, unbiased (over count - 1); zeros if `count` is
      below 2.
  """

  count: int | None
  mean: np.ndarray
  covariance: np.ndarray

  @classmethod
  def empty(cls, dimension: int) -> "FeatureMoments":
    """Returns the moments of no rows, for features of length `dimension`."""
    return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

  @classmethod
  def of(cls, features_nd: np.ndarray) -> "FeatureMoments":
    """Returns the moments of all rows.

    Args:
      features_nd: [N, D] of any real dtype.

    Raises:
      SpecError: a feature is not finite.
    """
    rows = np.asarray(features_nd, np.float64)
    count, dimension = rows.shape
    if count == 0:
      return cls.empty(dimension)
    require_finite(rows)
    mean = rows.mean(0)
    centered = rows - mean[None]
    return cls(count, mean, centered.T @ centered / max(count - 1, 1))

  def update(self, features_nd: np.ndarray) -> "FeatureMoments":
    """Returns the moments including [N, D] more rows."""
    return self.merge(FeatureMoments.of(features_nd))

  def merge(self, other: "FeatureMoments") -> "FeatureMoments":
    """Returns the moments of both sets together (Chan et al. 1979, eq. 2.1)."""
    count = self.count + other.count
    if count == 0:
      return self
    delta = other.mean - self.mean
    mean = self.mean + delta * (other.count / count)
    scatter = (
      self.covariance * max(self.count - 1, 0)
      + other.covariance * max(other.count - 1, 0)
      + np.outer(delta, delta) * (self.count * other.count / count)
    )
    return FeatureMoments(count, mean, scatter / max(count - 1, 1))


def require_finite(features_nd: np.ndarray) -> None:
  """Raises `SpecError` unless all of [N, D] features are finite."""
  finite = np.isfinite(features_nd).all(1)
  require(
    bool(finite.all()),
    f"{int((~finite).sum())} of {len(finite)} samples have "
    "features that are not finite; the images or the feature network have "
    "diverged, so score an earlier checkpoint",
  )


def require_comparable(dimension: int, other: int) -> None:
  """Raises `SpecError` unless two sets of features have the same length."""
  require(
    dimension == other,
    f"features of length {dimension} and {other} cannot be compared; "
    "use one feature network for both",
  )


def require_enough(count: int, dimension: int, what: str, remedy: str) -> None:
  """Raises `SpecError` unless a covariance of `count` rows can have full rank.

  Args:
    count: number of samples.
    dimension: number of features of each sample.
    what: plural noun for the samples, for the message.
    remedy: remedy, for the message.
  """
  require(
    count > dimension,
    f"{count} {what} are too few for the Fréchet distance over "
    f"{dimension} features, which needs at least {dimension + 1}; {remedy}",
  )


def require_enough_for_infinity(count: int, dimension: int) -> None:
  """Raises `SpecError` unless a tenth of the samples has a defined distance."""
  require(
    count // 10 > dimension,
    f"{count} samples are too few to extrapolate over {dimension} features: "
    f"a tenth of them must exceed {dimension}; give at least "
    f"{10 * (dimension + 1)}",
  )


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
  """Returns the Fréchet distance between two Gaussians.

  It is ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Let C = A A^T and
  A = V diag(w)^(1/2) from the symmetric eigenproblem. The eigenvalues of
  C1^(1/2) C2 C1^(1/2) are then the squared singular values of A1^T A2.
  Computing the singular values avoids the square root of rounded squares, which
  loses half of the digits in directions where a covariance is nearly singular.

  Args:
    a: moments of one set.
    b: moments of the other set; the order does not matter.

  Returns:
    The distance, 0 or more.

  Raises:
    SpecError: the features differ in length, or a set has no more samples than
      features.
  """
  dimension = len(a.mean)
  require_comparable(dimension, len(b.mean))
  for moments in (a, b):
    if moments.count is not None:
      require_enough(moments.count, dimension, "samples", "give more samples")
  cross = np.linalg.svd(_factor(a).T @ _factor(b), compute_uv=False).sum()
  shift = a.mean - b.mean
  spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
  return max(float(shift @ shift + spread), 0.0)


def _factor(moments: FeatureMoments) -> np.ndarray:
  """Returns A with A A^T = covariance; clips negative eigenvalues to 0."""
  values, vectors = np.linalg.eigh(moments.covariance)
  return vectors * np.sqrt(np.maximum(values, 0.0))[None]


class InfiniteDistance(NamedTuple):
  """A line fitted to distances as a function of 1/N.

  Attributes:
    distance: value at 1/N = 0. It may be negative if the true distance is near
      0.
    standard_error: standard error of `distance`, from the scatter about the
      line. The subsets share samples, so it does not include the variation
      between independent sets of samples.
    slope: slope of the line. The bias of N samples is about slope / N.
    slope_standard_error: standard error of `slope`.
  """

  distance: float
  standard_error: float
  slope: float
  slope_standard_error: float


def frechet_distance_infinity(
  features_nd: np.ndarray,
  reference: FeatureMoments,
  *,
  points: int = 15,
  seed: int = 0,
) -> InfiniteDistance:
  """Estimates the distance that infinitely many samples would have.

  The distances of random subsets of N/10 up to all N samples, evenly spaced,
  lie on a line over 1/N (Chong and Forsyth 2020). The bias from the size of the
  reference itself remains.

  Args:
    features_nd: [N, D] features of the samples.
    reference: moments of the reals.
    points: number of subsets, 3 or more.
    seed: seed of the subsets.

  Raises:
    SpecError: there are too few points for a line with an error or too few
      samples for a distance of the smallest subset, or features differ in
      length or are not finite.
  """
  count, dimension = features_nd.shape
  require(
    points >= 3,
    f"points={points} is too few to estimate a line's error; use 3 or more",
  )
  require_enough_for_infinity(count, dimension)
  sizes = np.linspace(count // 10, count, points).astype(int)
  rng = np.random.default_rng(seed)
  distances = []
  for size in sizes:
    interruption.point()
    chosen = features_nd[rng.choice(count, size, replace=False)]
    distances.append(frechet_distance(FeatureMoments.of(chosen), reference))
  (slope, distance), covariance = np.polyfit(1 / sizes, distances, 1, cov=True)
  slope_error, error = np.sqrt(np.diag(covariance))
  return InfiniteDistance(
    float(distance), float(error), float(slope), float(slope_error)
  )


def _score(samples: "Seen", reals: "Seen") -> dict[str, float]:
  return {"fd": frechet_distance(samples.moments, reals.moments)}


def _score_at_infinity(samples: "Seen", reals: "Seen") -> dict[str, float]:
  line = frechet_distance_infinity(samples.features, reals.moments)
  return {
    "fd_infinity": line.distance,
    "fd_infinity_standard_error": line.standard_error,
  }


def _full_rank(dimension: int, classes: int) -> int:
  """Returns the fewest samples whose covariance has full rank."""
  return dimension + 1


FD = ScoreKind(
  name="fd",
  columns={"fd": "less"},
  compute=_score,
  fewest_samples=_full_rank,
  fewest_reals=_full_rank,
)
FD_INFINITY = ScoreKind(
  name="fd_infinity",
  columns={"fd_infinity": "less", "fd_infinity_standard_error": None},
  compute=_score_at_infinity,
  keeps=("features",),
  # The smallest subset has a tenth of the samples.
  fewest_samples=lambda dimension, classes: 10 * (dimension + 1),
  fewest_reals=_full_rank,
)
