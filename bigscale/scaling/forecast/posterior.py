"""Modes and posterior draws of many fits at once.

A problem is one form of law and one set of rows. R problems are solved
together: an array with a leading axis R holds one entry per problem.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from bigscale.scaling.forecast import forms
from bigscale.scaling.forecast.forms import Array

# Steps of the search for a mode.
_STEPS = 20
# Degrees of freedom of Student's t, from which the first draws are taken.
_TAIL = 5.0


class Problems(NamedTuple):
  """R fits of log y at m places.

  Attributes:
    target: [R, m] weighted means of the rows' centered log y at each place.
    root: [R, m, m] root of the inverse covariance of `target`.
    mean: [R, P] prior means.
    deviation: [R, P] prior standard deviations.
  """

  target: Array
  root: Array
  mean: Array
  deviation: Array

  def take(self, chosen: slice) -> "Problems":
    """Returns some of the problems."""
    return Problems(*(part[chosen] for part in self))


class Modes(NamedTuple):
  """The results of `find_modes`.

  Attributes:
    theta: [R, P] modes.
    covariance: [R, P, P] inverse of the Hessian there.
    cost: [R] minus the log posterior density there, up to a constant.
  """

  theta: Array
  covariance: Array
  cost: Array


def _cost(theta: Array, problems: Problems, n: Array, d: Array) -> Array:
  """Returns minus the log posterior density, up to a constant, [R, S]."""
  residual = problems.target[:, None] - forms.log_y(theta, n, d)
  white = residual @ problems.root
  apart = (theta - problems.mean[:, None]) / problems.deviation[:, None]
  return 0.5 * ((white**2).sum(-1) + (apart**2).sum(-1))


def find_modes(problems: Problems, n: Array, d: Array, starts: Array) -> Modes:
  """Finds the posterior modes by Levenberg and Marquardt's method.

  Args:
    problems: R problems.
    n: [m] centered logs of N.
    d: [m] centered logs of D.
    starts: [R, S, P] S starts of each problem; the best end counts.
  """
  theta, damping = starts.copy(), np.full(starts.shape[:2], 1e-2)
  cost = _cost(theta, problems, n, d)
  precision = problems.deviation[:, None] ** -2.0
  diagonal = (..., *np.diag_indices(theta.shape[-1]))

  def hessian_and_pull(theta: Array) -> tuple[Array, Array]:
    f, slopes = forms.log_y_and_slopes(theta, n, d)
    white = slopes @ problems.root[:, None]
    residual = (problems.target[:, None] - f) @ problems.root
    hessian = white @ np.swapaxes(white, -1, -2)
    hessian[diagonal] += precision
    pull = (white @ residual[..., None])[..., 0]
    return hessian, pull + (problems.mean[:, None] - theta) * precision

  for _ in range(_STEPS):
    hessian, pull = hessian_and_pull(theta)
    hessian[diagonal] *= 1 + damping[..., None]
    move = np.clip(np.linalg.solve(hessian, pull[..., None])[..., 0], -2, 2)
    moved = _cost(theta + move, problems, n, d)
    better = moved < cost
    theta = np.where(better[..., None], theta + move, theta)
    cost = np.where(better, moved, cost)
    damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-8, 1e8)
  best, rows = cost.argmin(1), np.arange(len(cost))
  theta, cost = theta[rows, best], cost[rows, best]
  hessian, _ = hessian_and_pull(theta[:, None])
  return Modes(theta, np.linalg.inv(hessian[:, 0]), cost)


def draw(
  problems: Problems,
  n: Array,
  d: Array,
  modes: Modes,
  count: int,
  steps: int,
  rng: np.random.Generator,
) -> tuple[Array, Array]:
  """Draws from the posteriors.

  Draws from Student's t around the mode are resampled by their importance and
  then moved by random-walk Metropolis steps.

  Args:
    problems: R problems.
    n: [m] centered logs of N.
    d: [m] centered logs of D.
    modes: their modes.
    count: number of draws of each problem, S.
    steps: number of Metropolis steps.
    rng: source of randomness.

  Returns:
    Draws [R, S, P], and the log evidence of each problem, [R].
  """
  single = np.float32  # Exact enough for draws, and twice as fast.
  root = np.linalg.cholesky(modes.covariance).astype(single)
  across = np.swapaxes(root, -1, -2)
  problems = Problems(*(part.astype(single) for part in problems))
  n, d = n.astype(single), d.astype(single)
  shape = (len(root), count)
  # Parameters that are not free keep their values.
  free = problems.deviation > 2 * forms.FIXED
  z = rng.standard_normal((*shape, root.shape[-1]), single) * free[:, None]
  z *= np.sqrt(_TAIL / rng.chisquare(_TAIL, shape)).astype(single)[..., None]
  theta = modes.theta.astype(single)[:, None] + z @ across
  cost = _cost(theta, problems, n, d)
  size = free.sum(-1)[:, None]
  log = -cost + 0.5 * (_TAIL + size) * np.log1p((z**2).sum(-1) / _TAIL)
  evidence = _evidence(log, root, problems.deviation, size[:, 0])
  weight = np.exp(log - log.max(1, keepdims=True))
  total = np.cumsum(weight / weight.sum(1, keepdims=True), 1)
  picks = (np.arange(count) + rng.random((len(root), 1))) / count
  for r, pick in enumerate(picks):
    chosen = np.minimum(np.searchsorted(total[r], pick), count - 1)
    theta[r], cost[r] = theta[r, chosen], cost[r, chosen]
  width = 2.4 / np.sqrt(size)[..., None]
  for _ in range(steps):
    scale = (width * np.exp(rng.normal(-0.3, 0.7))).astype(single)
    z = rng.standard_normal(theta.shape, single) * free[:, None]
    moved = theta + (z * scale) @ across
    new = _cost(moved, problems, n, d)
    accepted = np.log(rng.random(shape)) < cost - new
    theta = np.where(accepted[..., None], moved, theta)
    cost = np.where(accepted, new, cost)
  return theta.astype(float), evidence


def _evidence(log: Array, root: Array, deviation: Array, size: Array) -> Array:
  """Returns the log evidence, up to a constant, from log weights [R, S]."""
  top = log.max(1)
  mean = top + np.log(np.exp(log - top[:, None]).mean(1))
  diagonal = np.diagonal(root, axis1=-2, axis2=-1)
  volume = np.log(diagonal / deviation).sum(-1)
  half, tail = size / 2, _TAIL / 2
  normalizer = gammaln(tail) - gammaln(tail + half) + half * np.log(tail)
  return (mean + volume + normalizer).astype(float)
