"""The distribution of a batch's mean when nothing has changed.

It is simulated: means of as many images, drawn from the anchor itself. No past
of the run is needed, and no independence of columns is assumed.
"""

import math

import numpy as np

# Number of simulated means, and of those that determine the tail.
_DRAWS, _TAIL = 4096, 64
# Factor by which the exponential tail is stretched. With it, a prototype gave 5
# alarms in 68,000 batches of three sizes, where 6.8 were nominal.
_SAFETY = 1.4
# Number of images that must contribute to a column's variance. A column that a
# handful of images determine says nothing about other images.
_FEW = 16
# Share of the identity in a correlation matrix, which makes it invertible.
_RIDGE = 0.1
# Largest deviation of one image in a column, in standard deviations.
_CLIP = 8.0


class Metric:
  """Squared deviations from a mean, in units of a shrunk covariance.

  Attributes:
    mean: [F] mean.
    few: [F] whether fewer than 16 images determine the column's variance. Such
      columns are ignored.
    deviation: [F] standard deviation; infinite for ignored columns.
  """

  def __init__(self, x_nf: np.ndarray, few: np.ndarray | None = None) -> None:
    """Estimates the metric from [N, F] columns of images."""
    x_nf = np.asarray(x_nf, np.float64)
    self.mean = x_nf.mean(0)
    squares = np.square(x_nf - self.mean)
    if few is None:
      few = squares.sum(0) ** 2 <= _FEW * np.square(squares).sum(0)
    self.few = few
    self.deviation = np.where(few, np.inf, np.sqrt(squares.mean(0)) + 1e-9)
    z_nf = (x_nf - self.mean) / self.deviation
    correlation = z_nf.T @ z_nf / len(z_nf)
    self._inverse = np.linalg.inv(
      (1 - _RIDGE) * correlation + _RIDGE * np.eye(len(correlation))
    )

  def clipped(self, x_nf: np.ndarray) -> np.ndarray:
    """Bounds the deviation of each image; ignored columns become the mean."""
    reach = np.where(self.few, 0, _CLIP * np.where(self.few, 0, self.deviation))
    return np.clip(x_nf, self.mean - reach, self.mean + reach)

  def squares(self, x_nf: np.ndarray) -> np.ndarray:
    """Returns [N] mean squared deviations per column."""
    z_nf = np.clip((x_nf - self.mean) / self.deviation, -50, 50)
    return ((z_nf @ self._inverse) * z_nf).mean(1)

  def shift(self, mean_f: np.ndarray) -> float:
    """Returns the largest shift of a mean, in standard deviations."""
    return float(np.abs((mean_f - self.mean) / self.deviation).max())


class Null:
  """What the mean of n images deviates by chance, all columns together."""

  def __init__(self, table_nf: np.ndarray, weights: np.ndarray) -> None:
    """Simulates means.

    Args:
      table_nf: [N, F] columns of the anchor's images.
      weights: [draws, N] weights of means, see `weights_of`.
    """
    self.table = Metric(table_nf)
    few, mean = self.table.few, self.table.mean
    draws = np.where(few, mean, weights @ table_nf.astype(np.float32))
    self._metric = Metric(draws, few)
    self._metric.mean = mean
    self._draws = np.sort(self._metric.squares(draws))
    self._first = self._draws[-_TAIL]
    excess = self._draws[-_TAIL:].mean() - self._first
    self._scale = max(_SAFETY * excess, 1e-12)

  def surprise(self, mean_f: np.ndarray, inflation: float) -> float:
    """Returns -ln P(a mean as far by chance), in nats.

    Args:
      mean_f: [F] mean of n images.
      inflation: factor of the variance that the anchor's own error causes, 1 +
        n / N.
    """
    value = self._metric.squares(mean_f[None])[0] / inflation
    above = max(len(self._draws) - np.searchsorted(self._draws, value), _TAIL)
    beyond = max(value - self._first, 0) / self._scale
    return float(math.log(len(self._draws) / above) + beyond)


def weights_of(rows: int, count: int) -> np.ndarray:
  """Returns [draws, rows] float32 weights of means of `count` random rows."""
  rng = np.random.default_rng(count)
  weights = np.empty((_DRAWS, rows), np.float32)
  for draw in weights:
    draw[:] = np.bincount(rng.integers(rows, size=count), minlength=rows)
  weights /= count
  return weights


def repeat_surprise(count: int, expected: float) -> float:
  """Returns a bound on -ln P(at least `count` repeats) (Chernoff), in nats."""
  if count <= expected:
    return 0.0
  expected = max(expected, 1e-12)
  return count * math.log(count / expected) - (count - expected)
