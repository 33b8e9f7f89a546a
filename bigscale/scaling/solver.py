"""Minimizes sums of Huber losses of log residuals, many problems at once.

If delta is far below the residuals, the loss is almost a sum of absolute
values. Gradient methods then crawl along its kinks, and a solver that stopped
early produced the field's most cited wrong law (Besiroglu et al. 2024). This
solver lowers delta in stages (Madsen and Nielsen 1993) and solves each stage by
Newton steps with the curvature of the loss. That curvature is singular if too
few residuals lie within delta. It is therefore damped with the curvature of
iteratively reweighted least squares, which majorizes the loss, so damped steps
reduce the loss.

The problems are rows of one array. They share points and differ in weights and
starting parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigscale.scaling import laws

# Longest step of log coefficients, of exponents, and of the floor in units of
# the geometric mean of y.
_LONGEST_STEP = 2.0
# Tolerance and iterations of the stages before the last, which only need rough
# solutions.
ROUGHLY, _ROUGH_ITERATIONS = 1e-3, 30
# Maximum number of elements of arrays [rows, P, n], which are 8 MB each.
_CHUNK = 1 << 20


class Solution(NamedTuple):
  """Solutions of R problems.

  Attributes:
    theta: [R, P] parameters.
    objective: [R] sums of Huber losses.
    converged: [R] bool, whether no step reduces the objective further.
  """

  theta: np.ndarray
  objective: np.ndarray
  converged: np.ndarray


class _State(NamedTuple):
  """State of the rows that have not converged."""

  theta: np.ndarray
  weights: np.ndarray
  found: laws.Prediction
  loss: np.ndarray
  damping: np.ndarray

  def take(self, rows: np.ndarray) -> "_State":
    found = laws.Prediction(self.found.log_y[rows], self.found.shares[rows])
    return _State(
      self.theta[rows],
      self.weights[rows],
      found,
      self.loss[rows],
      self.damping[rows],
    )


def residuals(design: laws.Design, found: laws.Prediction) -> np.ndarray:
  """Returns log prediction minus log y, [R, n]; 0 within an upper bound."""
  difference = found.log_y - design.log_y
  return np.where(design.censored, np.maximum(difference, 0.0), difference)


def huber(residual: np.ndarray, delta: float) -> np.ndarray:
  """Returns elementwise r^2/2 within delta, delta (|r| - delta/2) beyond."""
  size = np.abs(residual)
  return np.where(
    size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta)
  )


def stages(delta: float, scale: float) -> list[float]:
  """Returns the deltas of all stages, from the residuals' scale to `delta`."""
  count = int(np.ceil(np.log10(max(scale / delta, 1.0))))
  return [delta * 10.0**power for power in range(count, -1, -1)]


def minimize(
  design: laws.Design,
  theta: np.ndarray,
  weights: np.ndarray,
  deltas: Sequence[float],
  tolerance: float = 1e-7,
  iterations: int = 100,
) -> Solution:
  """Solves every problem from its starting parameters.

  Args:
    design: points to fit.
    theta: [R, P] starting parameters.
    weights: [R, n] weight of each point.
    deltas: deltas of log residuals, one per stage; the last defines the loss.
    tolerance: relative gain of the objective below which a row has converged.
    iterations: maximum number of iterations of the last stage.
  """
  rows = max(1, _CHUNK // (theta.shape[1] * weights.shape[1]))
  parts = []
  for start in range(0, len(theta), rows):
    part = theta[start : start + rows]
    counts = weights[start : start + rows]
    for delta in deltas[:-1]:
      part = _stage(
        design, part, counts, delta, ROUGHLY, _ROUGH_ITERATIONS
      ).theta
    solved = _stage(design, part, counts, deltas[-1], tolerance, iterations)
    parts.append(solved)
  return Solution(
    *(np.concatenate(field) for field in zip(*parts, strict=True))
  )


def _stage(
  design: laws.Design,
  theta: np.ndarray,
  weights: np.ndarray,
  delta: float,
  tolerance: float,
  iterations: int,
) -> Solution:
  found = laws.predict(design, theta)
  loss = _loss(design, found, weights, delta)
  state = _State(theta, weights, found, loss, np.full(len(theta), 1e-2))
  out = Solution(theta.copy(), loss.copy(), np.zeros(len(theta), bool))
  live = np.arange(len(theta))
  for _ in range(iterations):
    state, done = _step(design, state, delta, tolerance)
    out.theta[live], out.objective[live] = state.theta, state.loss
    out.converged[live] = done
    if done.all():
      break
    if done.any():
      live, state = live[~done], state.take(~done)
  return out


def _loss(
  design: laws.Design,
  found: laws.Prediction,
  weights: np.ndarray,
  delta: float,
) -> np.ndarray:
  return (weights * huber(residuals(design, found), delta)).sum(axis=1)


def _step(
  design: laws.Design, state: _State, delta: float, tolerance: float
) -> tuple[_State, np.ndarray]:
  """Takes one damped Newton step of every row; returns which are done."""
  gradient, newton, majorant = _curvature(design, state, delta)
  direction, scaled = _direction(design, state, gradient, newton, majorant)
  theta = state.theta + np.clip(direction, -_LONGEST_STEP, _LONGEST_STEP)
  _clip(design, theta)
  found = laws.predict(design, theta)
  loss = _loss(design, found, state.weights, delta)
  lower = loss <= state.loss
  gain = np.where(lower, state.loss - loss, 0.0)
  # The second term allows for the rounding of log y.
  little = tolerance * state.loss
  little = little + 1e-14 * delta * state.weights.sum(axis=1)
  light = state.damping <= 0.2
  done = (light & lower & (gain <= little)) | (light & (scaled <= little))
  done |= ~lower & (state.damping > 1e6)
  keep = lower[:, None]
  moved = _State(
    np.where(keep, theta, state.theta),
    state.weights,
    laws.Prediction(
      np.where(keep, found.log_y, state.found.log_y),
      np.where(keep[..., None], found.shares, state.found.shares),
    ),
    np.where(lower, loss, state.loss),
    np.clip(np.where(lower, state.damping / 6, state.damping * 6), 1e-9, None),
  )
  return moved, done


def _curvature(
  design: laws.Design, state: _State, delta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the gradient [R, P], the curvature and its majorant [R, P, P]."""
  slopes = laws.jacobian(design, state.found)
  residual = residuals(design, state.found)
  size = np.abs(residual)
  # An upper bound above the prediction does not contribute.
  weights = state.weights * ~(design.censored & (residual <= 0))
  pull = weights * np.clip(residual, -delta, delta)
  gradient = (slopes @ pull[..., None])[..., 0]
  across = slopes.transpose(0, 2, 1)
  newton = (slopes * (weights * (size <= delta))[:, None]) @ across
  majorant = (
    slopes * (weights * (delta / np.maximum(size, delta)))[:, None]
  ) @ across
  return gradient, newton, majorant


def _direction(
  design: laws.Design,
  state: _State,
  gradient: np.ndarray,
  newton: np.ndarray,
  majorant: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the steps [R, P] and their predicted gains [R]."""
  size = gradient.shape[1]
  matrix = newton + state.damping[:, None, None] * majorant
  unit = np.sqrt(np.diagonal(majorant, axis1=1, axis2=2)) + 1e-150
  matrix = matrix / unit[:, :, None] / unit[:, None, :]
  # The ridge keeps the matrix regular if two terms coincide.
  ridge = 1e-11 * (1 + state.damping)
  matrix[:, range(size), range(size)] += ridge[:, None]
  gradient = gradient / unit
  if design.floor is None:
    # If the floor is zero and its step would be negative, it stays at zero and
    # does not affect the other steps.
    held = (state.theta[:, -1] <= 0) & (gradient[:, -1] > 0)
    matrix[held, -1, :] = matrix[held, :, -1] = 0
    matrix[held, -1, -1] = 1
    gradient[held, -1] = 0
  step = -np.linalg.solve(matrix, gradient[..., None])[..., 0]
  return step / unit, -(gradient * step).sum(axis=1)


def _clip(design: laws.Design, theta: np.ndarray) -> None:
  """Clips the floor to at least zero, and exponents to their bounds."""
  terms = len(design.z_kn)
  exponents = theta[:, 1 : 2 * terms : 2]
  largest = laws.LARGEST_EXPONENT
  np.clip(exponents, -largest, largest, out=exponents)
  if design.floor is None:
    np.maximum(theta[:, -1], 0.0, out=theta[:, -1])
