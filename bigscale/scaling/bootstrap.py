"""Standard errors and intervals: whole runs are drawn again, laws fitted again.

Checkpoints of one run err together; a bootstrap that drew rows would believe
each of them. So it draws clusters (Cameron, Gelbach and Miller 2008), with the
runs that collapsed among them.

With a small delta a law passes through a few of its points, as a median does,
and the spread of such laws over resamples is too wide. So resamples are fitted
with a delta of some size, which smooths them (Hall, DiCiccio and Romano 1989).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import intervals, solver
from bigscale.scaling.fit import Fit
from bigscale.scaling.laws import Points

# Fewer clusters have too few different resamples for a tail of 2.5%.
LEAST_CLUSTERS = 4
# For an interval. Of 4 and 5 runs of a row each, 95% held the truth of
# A x^-alpha in 91% and 90% of 300 tables; of 6, in 95%.
INTERVAL_CLUSTERS = 6
# Shares of the resamples that must tell the parameters, and may not converge.
LEAST_USED, MOST_UNCONVERGED = 0.5, 0.2
# Least delta, in mean absolute log residuals. In simulations of 8 to 36 points
# this much brought standard errors to 1.0 to 1.4 times the true spread.
SMOOTHING = 0.3
# Rows solved at a time are bounded by the solver, weights by this.
_ROWS = 1000


class Resampled(NamedTuple):
  """Fits of resamples.

  Attributes:
    theta: [R, P]; resamples that cannot tell the parameters are left out.
    drawn: how many resamples.
    clusters: how many there are to draw from.
    delta: of log residuals, that resamples were fitted with.
    unconverged: share of fits that ran out of iterations.
    seconds: taken.
  """

  theta: np.ndarray
  drawn: int
  clusters: int
  delta: float
  unconverged: float
  seconds: float

  @property
  def unsupported(self) -> str | None:
    """Why there can be no intervals; None where there can."""
    if self.clusters < INTERVAL_CLUSTERS:
      return (
        f"{self.clusters} runs are too few for an interval, which needs "
        f"{INTERVAL_CLUSTERS}"
      )
    if len(self.theta) < LEAST_USED * self.drawn:
      return (
        f"{self.drawn - len(self.theta)} of {self.drawn} resamples have too "
        "few different points to be fitted"
      )
    if self.unconverged >= MOST_UNCONVERGED:
      return (
        f"{self.unconverged:.0%} of the fits of resamples did not converge: "
        "the runs hardly tell the law's parameters"
      )
    return None


def resample(
  fit: Fit,
  points: Points,
  resamples: int,
  seed: Sequence[int],
) -> Resampled:
  """Fits a law to resamples of its points.

  Args:
    fit: of the points; every resample starts from its parameters.
    points: it was fitted to.
    resamples: how many to draw.
    seed: of the draws. The first k of them do not depend on how many.
  """
  started = time.monotonic()
  clusters = int(points.group.max()) + 1
  rng = np.random.default_rng(list(seed))
  draws = rng.integers(clusters, size=(resamples, clusters))
  delta = max(fit.delta, SMOOTHING * fit.scale)
  deltas = solver.stages(delta, fit.scale)
  theta, converged = [], []
  for start in range(0, resamples, _ROWS):
    weights = _weights(draws[start : start + _ROWS], points.group)
    weights = weights[_tell(weights, fit)]
    if not len(weights):
      continue
    begin = np.repeat(fit.theta[None], len(weights), axis=0)
    solved = solver.minimise(fit.design, begin, weights, deltas)
    theta.append(solved.theta)
    converged.append(solved.converged)
  theta = np.concatenate([np.empty((0, len(fit.theta))), *theta])
  converged = np.concatenate([np.empty(0, bool), *converged])
  return Resampled(
    theta,
    resamples,
    clusters,
    delta,
    float((~converged).mean()) if len(converged) else 0.0,
    time.monotonic() - started,
  )


def _weights(draws: np.ndarray, group: np.ndarray) -> np.ndarray:
  """How often each point is in each resample, [R, n]."""
  rows, clusters = draws.shape
  flat = draws + clusters * np.arange(rows)[:, None]
  counts = np.bincount(flat.ravel(), minlength=rows * clusters)
  return counts.reshape(rows, clusters)[:, group].astype(float)


def _tell(weights: np.ndarray, fit: Fit) -> np.ndarray:
  """Which resamples have as many different points as there are parameters."""
  seen = ~fit.design.censored
  places, place = np.unique(
    fit.design.z_kn[:, seen], axis=1, return_inverse=True
  )
  order = np.argsort(place.ravel(), kind="stable")
  first = np.searchsorted(place.ravel()[order], np.arange(places.shape[1]))
  there = np.add.reduceat(weights[:, seen][:, order], first, axis=1)
  different = (there > 0).sum(axis=1)
  return different >= fit.law.size


def parameters(fit: Fit, resampled: Resampled) -> Mapping[str, Any]:
  """Each parameter with its standard error and interval, if it has them."""
  return intervals.parameters(
    fit.law, fit.design, fit.theta, resampled.theta, resampled.unsupported
  )
