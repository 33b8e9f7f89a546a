"""Fits a law by Newton's method from several starting points.

The starting points come from variable projection over a grid of exponents. For
fixed exponents a law is linear in A, B and E, so only the exponents need a
search. The best nonnegative A, B and E come from reweighted least squares of
relative residuals, which equal log residuals to first order.
"""

import dataclasses
import itertools
from typing import Literal, NamedTuple

import numpy as np

from bigscale.scaling import laws, solver
from bigscale.scaling.laws import Points
from bigscale.spec import require

STARTS = 16
# Minimum number of points beyond the number of parameters, so that residuals
# remain to judge the law by.
SPARE_POINTS = 2
# Relative difference of objectives below which two starts agree.
_AGREE = 1e-6
_TOLERANCE = 1e-12
# Iterations before each pruning of the starts.
_PRUNE_EVERY = 25
# Starts are pruned if their objective exceeds the best by this factor.
_PRUNE_FACTOR = 1.5
# Residuals of log y below this value are rounding errors.
_SMALLEST_SCALE = 1e-9

# Negative exponents, for which y grows, are included so that the fit can reveal
# them.
_EXPONENTS = np.concatenate([[-1.0, -0.3, -0.05], np.geomspace(0.02, 3, 16)])
_ROUNDS = 4
# Relative residuals below this value get equal weights in the reweighting.
_DELTA = 0.01
# Largest absolute log, so that squares stay finite.
_LARGEST_LOG = 150.0
# Replaces zero coefficients at the start, so that their logs exist.
_SMALLEST_COEFFICIENT = 1e-3

DeltaUnit = Literal["scale", "log"]


@dataclasses.dataclass(frozen=True)
class Loss:
  """A sum of Huber losses of log residuals.

  Attributes:
    delta: residual at which the loss changes from quadratic to linear.
    unit: unit of delta. `scale` is the mean absolute log residual, which is the
      maximum likelihood scale if the loss is close to an absolute value. The
      fit then does not depend on how noisy the runs are. `log` means that
      delta is a difference of log y.
  """

  delta: float = 1e-3
  unit: DeltaUnit = "scale"

  def __post_init__(self) -> None:
    require(
      1e-6 <= self.delta <= 1e3,
      f"--delta={self.delta} must be between 1e-6 and 1000; 0.001 is common",
    )


class Fit(NamedTuple):
  """A fitted law.

  Attributes:
    law: form of the law.
    design: points that the law was fitted to.
    theta: [P] fitted parameters.
    scale: mean absolute log residual of the uncensored points.
    delta: delta of the Huber loss of log residuals.
    objective: sum of Huber losses.
    residual: [n] log prediction minus log y; for a censored point, only the
      amount by which the prediction exceeds the bound.
    converged: whether no step reduces the objective further.
    starts: number of starting points.
    agreeing: number of starting points that reached the best objective.
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
    """Values of E, A and alpha, and of B and beta if there are two terms."""
    found = laws.values_of(self.law, self.design.center, self.theta[None])
    return {name: float(value[0]) for name, value in found.items()}


def obstacle(law: laws.Law, points: Points) -> str | None:
  """Returns why a law cannot be fitted to the points, or None if it can."""
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
        f"{name} is {column[0]:g} in all {seen.sum()} finished points, so no "
        "law can be fitted to it; add runs with other values"
      )
  distinct = np.unique(values, axis=1).shape[1]
  if distinct < law.size:
    return (
      f"{seen.sum()} finished points have {distinct} different values of "
      f"{', '.join(dict.fromkeys(law.variables))}, but y = {law.formula} has "
      f"{law.size} parameters and needs as many values; add runs with other "
      "values"
    )
  if np.ptp(np.log(points.y[seen])) <= _SMALLEST_SCALE:
    return (
      f"y is {points.y[seen][0]:g} in all {seen.sum()} finished points, so no "
      "law can be fitted; check that y is the right column and that not all "
      "runs are at the floor"
    )
  middle = float(np.median(points.y[seen]))
  if law.floor is not None and law.floor >= middle:
    return (
      f"--floor={law.floor:g} must be below the median of y, {middle:g}; lower "
      "it, or pass --floor=free to fit it"
    )
  return None


def fit(law: laws.Law, points: Points, loss: Loss) -> Fit:
  """Fits a law to points.

  Args:
    law: form of the law.
    points: points to fit.
    loss: loss of each log residual; the fit minimizes the sum.

  Raises:
    SpecError: the points do not determine the law's parameters.
  """
  reason = obstacle(law, points)
  require(reason is None, reason or "")
  design = laws.design_of(law, points.variables, points.y, points.censored)
  theta = _starts(design, STARTS)
  weights = np.ones((len(theta), len(points.y)))
  scale = _scale(design, theta[0])
  # The scale comes from the law's own residuals and settles as delta falls.
  for delta in (1.0, 0.1):
    solved = solver.minimize(
      design, theta, weights, [delta * scale], solver.ROUGHLY, _PRUNE_EVERY
    )
    # The margin keeps starts that are still improving if the runs fit almost
    # exactly.
    small = len(points.y) * solver.huber(np.array(0.1 * scale), delta * scale)
    near = solved.objective <= _PRUNE_FACTOR * solved.objective.min() + small
    theta, weights = solved.theta[near], weights[near]
    scale = _scale(design, solved.theta[np.argmin(solved.objective)])
  delta = loss.delta * (scale if loss.unit == "scale" else 1.0)
  solved = solver.minimize(
    design, theta, weights, solver.stages(delta, scale), _TOLERANCE
  )
  theta, best = solved.theta, int(np.argmin(solved.objective))
  scale = _scale(design, theta[best])
  objective = float(solved.objective[best])
  # The second term allows for the rounding of log y.
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
  """Returns starting parameters [S, P], S <= `count`, the best first.

  Half are the best points of the grid. The other half are spread over the rest
  of the grid, so that agreement between their results is evidence.

  Args:
    design: points to fit.
    count: maximum number of starting points.
  """
  terms = len(design.z_kn)
  exponents = np.array(list(itertools.product(_EXPONENTS, repeat=terms)))
  coefficients = _project(design, exponents)
  theta = np.empty((len(exponents), coefficients.shape[1] + terms))
  theta[:, 0 : 2 * terms : 2] = np.log(
    np.maximum(coefficients[:, :terms], _SMALLEST_COEFFICIENT)
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
  """Returns nonnegative coefficients [G, K or K + 1] for exponents [G, K]."""
  inverse_y = np.exp(-design.log_y)
  log_columns = -exponents[..., None] * design.z_kn
  columns = (
    np.exp(np.clip(log_columns, -_LARGEST_LOG, _LARGEST_LOG)) * inverse_y
  )
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
  """Solves weighted least squares with nonnegative coefficients.

  There are at most three columns, so every subset of nonzero coefficients is
  solved and the best feasible solution is returned.

  Args:
    columns: [G, C, n] columns of G problems.
    target: [n] values to approximate.
    weights: [G, n] weights of squared residuals.

  Returns:
    [G, C] coefficients.
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
      # The sum of squares without its constant term.
      value = -(found * right).sum(axis=1)
      better = (found >= 0).all(axis=1) & (value < lowest)
      lowest = np.where(better, value, lowest)
      row = np.zeros_like(best)
      row[:, chosen] = found / unit
      best = np.where(better[:, None], row, best)
  return best
