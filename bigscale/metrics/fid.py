"""Fréchet distance between features (Heusel et al. 2017, eq. 6).

Plain numpy in float64. The distance of N samples lies above that of infinitely
many by about a constant over N, so only distances of equal counts compare.
"""

from typing import NamedTuple

import numpy as np

from bigscale.spec import SpecError, require


class Moments(NamedTuple):
  """Mean and covariance of features seen so far.

  Attributes:
    count: rows seen.
    mean: [D] float64; zeros where `count` is 0.
    covariance: [D, D] float64, unbiased (over count - 1); zeros where `count`
      is below 2.
  """

  count: int
  mean: np.ndarray
  covariance: np.ndarray

  @classmethod
  def empty(cls, dimension: int) -> "Moments":
    """Of no rows of `dimension` features."""
    return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

  @classmethod
  def of(cls, features_nd: np.ndarray) -> "Moments":
    """Of all rows at once.

    Args:
      features_nd: [N, D] of any real type.

    Raises:
      SpecError: a feature is not finite.
    """
    rows = np.asarray(features_nd, np.float64)
    count, dimension = rows.shape
    if count == 0:
      return cls.empty(dimension)
    require(
      bool(np.isfinite(rows).all()),
      f"{int((~np.isfinite(rows)).any(1).sum())} of {count} samples have "
      "features that are not finite; the images or the feature network have "
      "diverged: score an earlier checkpoint",
    )
    mean = rows.mean(0)
    centred = rows - mean[None]
    return cls(count, mean, centred.T @ centred / max(count - 1, 1))

  def update(self, features_nd: np.ndarray) -> "Moments":
    """With [N, D] further rows."""
    return self.merge(Moments.of(features_nd))

  def merge(self, other: "Moments") -> "Moments":
    """Of both together (Chan et al. 1979, eq. 2.1)."""
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
    return Moments(count, mean, scatter / max(count - 1, 1))


def require_enough(count: int, dimension: int, what: str, remedy: str) -> None:
  """Raises `SpecError` unless a covariance of `count` rows can have full rank.

  Args:
    count: samples.
    dimension: features of each.
    what: names the samples, in the message.
    remedy: what to do, in the message.
  """
  require(
    count > dimension,
    f"{what} are {count} samples, too few for the Fréchet distance over "
    f"{dimension} features, which needs at least {dimension + 1}; {remedy}",
  )


def frechet_distance(a: Moments, b: Moments) -> float:
  """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians.

  With C = A A^T and A = V diag(w)^(1/2) from the symmetric eigenproblem, the
  eigenvalues of C1^(1/2) C2 C1^(1/2) are the squared singular values of
  A1^T A2; taking these spares the square root of rounded squares, which costs
  half of the digits in directions where a covariance is nearly singular.

  Args:
    a: of one set.
    b: of the other; the order does not matter.

  Returns:
    The distance, 0 or more.

  Raises:
    SpecError: the features are of different length, or a set has no more
      samples than features.
  """
  dimension = len(a.mean)
  if len(b.mean) != dimension:
    raise SpecError(
      f"features of length {dimension} and {len(b.mean)} cannot be compared; "
      "use one feature network for both"
    )
  for moments in (a, b):
    require_enough(moments.count, dimension, "these", "give more samples")
  cross = np.linalg.svd(_factor(a).T @ _factor(b), compute_uv=False).sum()
  shift = a.mean - b.mean
  spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
  return max(float(shift @ shift + spread), 0.0)


def _factor(moments: Moments) -> np.ndarray:
  """A with A A^T = covariance; rounding below zero counts as zero."""
  values, vectors = np.linalg.eigh(moments.covariance)
  return vectors * np.sqrt(np.maximum(values, 0.0))[None]
