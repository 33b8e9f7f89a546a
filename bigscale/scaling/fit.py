"""Fits one law: starts from a grid, then Newton from each.

Where the search begins is found by variable projection over a grid of
exponents. For fixed exponents a law is linear in A, B and E, so only exponents
need a search; the best nonnegative A, B and E come from reweighted least
squares of relative residuals, which are log residuals to first order.
"""

import dataclasses
import itertools
from typing import Literal, NamedTuple

import numpy as np

from bigscale.scaling import laws, solver
from bigscale.scaling.laws import Points
from bigscale.spec import require

STARTS = 16
# Points beyond the law's parameters, for anything to be left to judge it by.
SPARE_POINTS = 2
# Starts agree whose objectives differ by less, relatively.
_AGREE = 1e-6
_TOLERANCE = 1e-12
# Iterations until hopeless starts are looked for.
_FEW = 25
# Starts whose objective is this many times the best are given up early.
_HOPELESS = 1.5
# Of log y. Residuals below are rounding.
_SMALLEST_SCALE = 1e-9

# Laws of growth are tried too: an exponent below zero should be seen, not
# forbidden.
_EXPONENTS = np.concatenate([[-1.0, -0.3, -0.05], np.geomspace(0.02, 3, 16)])
_ROUNDS = 4
# Relative residuals below it count alike in the reweighting.
_DELTA = 0.01
# Of logs, so that squares stay finite.
_FARTHEST = 150.0
# What a coefficient found to be zero starts from, so that its log exists.
_SMALL = 1e-3

DeltaUnit = Literal["scale", "log"]


@dataclasses.dataclass(frozen=True)
class Loss:
  """A sum of Huber losses of log residuals.

  Attributes:
    delta: where the loss goes from square to linear.
    unit: of delta. `scale`: the mean absolute log residual, the maximum
      likelihood scale where the loss is close to an absolute value; so a law
      does not depend on how noisy its runs are. `log`: of log y.
  """

  delta: float = 1e-3
  unit: DeltaUnit = "scale"

  def __post_init__(self) -> None:
    require(
      1e-6 <= self.delta <= 1e3,
      f"--delta={self.delta} must be from 1e-6 to 1000; 0.001 is common",
    )


class Fit(NamedTuple):
  """A law and its parameters.

  Attributes:
    law: its form.
    design: the points it was fitted to.
    theta: [P].
    scale: mean absolute log residual of points that are no bounds.
    delta: of log residuals.
    objective: sum of Huber losses.
    residual: [n] log prediction less log y; of bounds, what exceeds them.
    converged: no step goes further down.
    starts: how many were tried.
    agreeing: how many ended where the best did.
  """

  law: laws.Law
  design: laws.Design
  theta: np.ndarray
  scale: float
  delta: float
  objective: float
  residual: np.ndarray
  converged: bool
  starts: int
  agreeing: int

  @property
  def values(self) -> dict[str, float]:
    """E, A, alpha, and B, beta where there are two terms."""
    found = laws.values_of(self.law, self.design.centre, self.theta[None])
    return {name: float(value[0]) for name, value in found.items()}


def obstacle(law: laws.Law, points: Points) -> str | None:
  """Why a law cannot be fitted to points; None where it can."""
  seen = ~points.censored
  needed = law.size + SPARE_POINTS
  if seen.sum() < needed:
    collapsed = f" and {(~seen).sum()} that collapsed" if (~seen).any() else ""
    return (
      f"y = {law.formula} has {law.size} parameters and needs {needed} "
      f"finished points, but there are {seen.sum()}{collapsed}; add runs"
    )
  values = np.stack([points.variables[name][seen] for name in law.variables])
  for name, column in zip(law.variables, values, strict=True):
    if len(np.unique(column)) == 1:
      return (
        f"{name} is {column[0]:g} in all {seen.sum()} finished points; vary "
        "it, or a law of it cannot be seen"
      )
  distinct = np.unique(values, axis=1).shape[1]
  if distinct < law.size:
    return (
      f"{seen.sum()} finished points have {distinct} different values of "
      f"{', '.join(dict.fromkeys(law.variables))}; y = {law.formula} has "
      f"{law.size} parameters and needs as many: add runs between or beyond"
    )
  if np.ptp(np.log(points.y[seen])) <= _SMALLEST_SCALE:
    return (
      f"y is {points.y[seen][0]:g} in all {seen.sum()} finished points: "
      "nothing falls there, and no law can be seen; is it the right column, "
      "or do all runs stand at the floor?"
    )
  middle = float(np.median(points.y[seen]))
  if law.floor is not None and law.floor >= middle:
    return (
      f"--floor={law.floor:g} is not below the median of y, {middle:g}; a "
      "floor is what y falls to: lower it, or fit it with --floor=free"
    )
  return None


def fit(law: laws.Law, points: Points, loss: Loss) -> Fit:
  """Fits a law.

  Args:
    law: its form.
    points: to fit it to.
    loss: to minimise the sum of.

  Raises:
    SpecError: the points cannot tell the law's parameters.
  """
  reason = obstacle(law, points)
  require(reason is None, reason or "")
  design = laws.design_of(law, points.variables, points.y, points.censored)
  theta = _starts(design, STARTS)
  weights = np.ones((len(theta), len(points.y)))
  scale = _scale(design, theta[0])
  # The scale is of the law's own residuals: it settles as delta comes down.
  for delta in (1.0, 0.1):
    solved = solver.minimise(
      design, theta, weights, [delta * scale], solver.ROUGHLY, _FEW
    )
    # Where runs fit almost exactly, those that are on their way stay too.
    small = len(points.y) * solver.huber(np.array(0.1 * scale), delta * scale)
    near = solved.objective <= _HOPELESS * solved.objective.min() + small
    theta, weights = solved.theta[near], weights[near]
    scale = _scale(design, solved.theta[np.argmin(solved.objective)])
  delta = loss.delta * (scale if loss.unit == "scale" else 1.0)
  solved = solver.minimise(
    design, theta, weights, solver.stages(delta, scale), _TOLERANCE
  )
  theta, best = solved.theta, int(np.argmin(solved.objective))
  scale = _scale(design, theta[best])
  objective = float(solved.objective[best])
  # The second term is the rounding of log y.
  as_good = objective * (1 + _AGREE) + 1e-12 * delta * len(points.y)
  residual = solver.residuals(design, laws.predict(design, theta[best, None]))
  return Fit(
    law,
    design,
    theta[best],
    scale,
    delta,
    objective,
    residual[0],
    bool(solved.converged[best]),
    STARTS,
    int((solved.objective <= as_good).sum()),
  )


def _scale(design: laws.Design, theta: np.ndarray) -> float:
  residual = solver.residuals(design, laws.predict(design, theta[None]))[0]
  return max(_SMALLEST_SCALE, float(np.abs(residual[~design.censored]).mean()))


def _starts(design: laws.Design, count: int) -> np.ndarray:
  """Parameters [S, P], S <= `count`, the best of the grid first.

  Half are the grid's best points, half are spread over the others, so that
  agreement between their ends says something.

  Args:
    design: the points.
    count: how many at most.
  """
  terms = len(design.z_kn)
  exponents = np.array(list(itertools.product(_EXPONENTS, repeat=terms)))
  coefficients = _project(design, exponents)
  theta = np.empty((len(exponents), coefficients.shape[1] + terms))
  theta[:, 0 : 2 * terms : 2] = np.log(
    np.maximum(coefficients[:, :terms], _SMALL)
  )
  theta[:, 1 : 2 * terms : 2] = exponents
  if design.floor is None:
    theta[:, -1] = coefficients[:, -1]
  residual = solver.residuals(design, laws.predict(design, theta))
  order = np.argsort(solver.huber(residual, _DELTA).sum(axis=1), kind="stable")
  best = order[: count // 2]
  others = order[count // 2 :]
  spread = (
    np.linspace(0, len(others) - 1, count - len(best)).round().astype(int)
  )
  return theta[np.concatenate([best, others[np.unique(spread)]])]


def _project(design: laws.Design, exponents: np.ndarray) -> np.ndarray:
  """Nonnegative coefficients [G, K or K + 1] for exponents [G, K]."""
  inverse_y = np.exp(-design.log_y)
  log_columns = -exponents[..., None] * design.z_kn
  columns = np.exp(np.clip(log_columns, -_FARTHEST, _FARTHEST)) * inverse_y
  if design.floor is None:
    ones = np.broadcast_to(inverse_y, (len(columns), 1, len(inverse_y)))
    columns = np.concatenate([columns, ones], axis=1)
  target = 1 - (design.floor or 0.0) * inverse_y
  weights = np.broadcast_to(
    np.where(design.censored, 0.0, 1.0), (len(columns), len(target))
  )
  for _ in range(_ROUNDS):
    found = _nonnegative(columns, target, weights)
    residual = (columns * found[..., None]).sum(axis=1) - target
    weights = 1 / np.maximum(np.abs(residual), _DELTA)
    weights = weights * ~(design.censored & (residual <= 0))
  return found


def _nonnegative(
  columns: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Weighted least squares with nonnegative coefficients.

  There are three columns at most: every choice of those that are not zero is
  solved, and the best that is feasible taken.

  Args:
    columns: [G, C, n].
    target: [n].
    weights: [G, n].

  Returns:
    [G, C].
  """
  weighted = columns * weights[:, None]
  gram = weighted @ columns.transpose(0, 2, 1)
  moment = weighted @ target
  count = columns.shape[1]
  best = np.zeros((len(columns), count))
  lowest = np.zeros(len(columns))
  for size in range(1, count + 1):
    for chosen in itertools.combinations(range(count), size):
      part = np.ix_(range(len(columns)), chosen, chosen)
      matrix = gram[part]
      unit = np.sqrt(np.diagonal(matrix, axis1=1, axis2=2)) + 1e-150
      matrix = matrix / unit[:, :, None] / unit[:, None, :]
      matrix[:, range(size), range(size)] += 1e-12
      right = moment[:, chosen] / unit
      found = np.linalg.solve(matrix, right[..., None])[..., 0]
      # Of the sum of squares, without the constant.
      value = -(found * right).sum(axis=1)
      better = (found >= 0).all(axis=1) & (value < lowest)
      lowest = np.where(better, value, lowest)
      row = np.zeros_like(best)
      row[:, chosen] = found / unit
      best = np.where(better[:, None], row, best)
  return best
