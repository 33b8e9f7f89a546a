"""Compares forms of law by how well they predict larger, held-out runs.

Each form is fitted to the runs that took at most 1/4, or 1/10, of the largest
compute, and then predicts the larger runs. It is judged by the mean absolute
log error and by the share of runs within the 90% interval. The interval
combines the uncertainty of the parameters (bootstrap) and the scatter of runs
(residuals). A run is held out whole: the early checkpoints of a larger run
share its weights and data, so they are neither fitted nor predicted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigscale.scaling import bootstrap, intervals, laws
from bigscale.scaling.fit import Fit, Loss, fit, obstacle
from bigscale.scaling.laws import Points

HORIZONS = (4, 10)
# Minimum number of larger runs; with fewer, the best form is due to chance.
LEAST_PREDICTED = 5
# Enough for the ends of a 90% interval.
_RESAMPLES = 400
_LEVEL = 0.9


def forms(points: Points, floor: float | None) -> list[laws.Law]:
  """Returns the forms to compare, given the variables of the points.

  They are laws with and without a floor, laws of compute alone, and for one
  variable a broken power law.

  Args:
    points: points to fit.
    floor: pinned floor to compare as well; None or 0 for none.
  """
  two = "x2" in points.variables
  terms = ("x", "x2") if two else ("x",)
  found = [laws.Law(terms), laws.Law(terms, 0.0)]
  if floor:
    found.append(laws.Law(terms, floor))
  if two or not np.array_equal(points.variables["C"], points.variables["x"]):
    found += [laws.Law(("C",)), laws.Law(("C",), 0.0)]
  if not two:
    # A broken power law, steep and then flat: two powers of one variable.
    found.append(laws.Law(("x", "x"), 0.0))
  return found


def compare(
  points: Points,
  candidates: Sequence[laws.Law],
  loss: Loss,
  seed: Sequence[int],
  grouped: bool = False,
) -> dict[str, Any]:
  """Fits each form to all points, and to small runs to predict larger ones.

  Args:
    points: all points.
    candidates: forms to compare.
    loss: loss to fit with.
    seed: seed of the bootstrap.
    grouped: whether each group of points is known to be one run.

  Returns:
    `forms`: for each form its `form`, `parameters`, the names of parameters
    `at_bound`, `mean_abs_log_residual`, and `heldout` by horizon. `best`: by
    horizon, the form with the smallest error among those that could be fitted.
    `heldout` counts the rows that are `fitted`, `predicted` and `set_aside`,
    and the `fitted_runs` and `predicted_runs`, which are None unless `grouped`.
    A missing value is None with a `reason`; `reasons` explains `best`.
  """
  found = []
  for number, law in enumerate(candidates):
    reason = obstacle(law, points)
    entry: dict[str, Any] = {
      "form": f"y = {law.formula}",
      "parameters": None,
      "mean_abs_log_residual": None,
    }
    if reason is None:
      whole = fit(law, points, loss)
      entry["parameters"] = whole.values
      sides = intervals.sides_of(law, whole.design, whole.theta[None])
      entry["at_bound"] = [name for name, at in sides.items() if at.of[0] != 0]
      entry["mean_abs_log_residual"] = whole.scale
    else:
      entry["reason"] = reason
    entry["heldout"] = {
      f"{times}x": _heldout(
        law, points, loss, times, (*seed, number, times), grouped
      )
      for times in HORIZONS
    }
    found.append(entry)
  best, reasons = {}, {}
  for horizon in found[0]["heldout"]:
    scored = [
      (entry["heldout"][horizon]["error"], entry["form"])
      for entry in found
      if entry["heldout"][horizon]["error"] is not None
    ]
    held = found[0]["heldout"][horizon]
    predicted = held["predicted_runs"] if grouped else held["predicted"]
    best[horizon] = None
    if not scored:
      reasons[horizon] = "no form could be fitted to the smaller runs"
    elif predicted < LEAST_PREDICTED:
      reasons[horizon] = (
        f"{predicted} larger runs are too few to choose a form; at least "
        f"{LEAST_PREDICTED} are needed"
      )
    else:
      best[horizon] = min(scored)[1]
  return {"forms": found, "best": best, "reasons": reasons}


def _heldout(
  law: laws.Law,
  points: Points,
  loss: Loss,
  times: int,
  seed: Sequence[int],
  grouped: bool,
) -> dict[str, Any]:
  compute = points.variables["C"]
  seen = ~points.censored
  limit = compute[seen].max() / times
  most = np.zeros(points.group.max() + 1)
  np.maximum.at(most, points.group, compute)
  small = most[points.group] <= limit
  large = ~small & seen & (compute > limit)

  def runs(chosen: np.ndarray) -> int | None:
    return len(np.unique(points.group[chosen])) if grouped else None

  entry: dict[str, Any] = {
    "error": None,
    "coverage90": None,
    "interval90_factor": None,
    "fitted": int((small & seen).sum()),
    "predicted": int(large.sum()),
    "set_aside": int((~small & ~large & seen).sum()),
    "fitted_runs": runs(small & seen),
    "predicted_runs": runs(large),
  }
  if not small.any():
    return entry | {
      "reason": f"no run took at most 1/{times} of the largest compute"
    }
  reason = obstacle(law, points.take(small))
  if reason is not None:
    return entry | {
      "reason": f"using runs of at most 1/{times} of the largest compute, "
      f"{reason}"
    }
  smaller, larger = points.take(small), points.take(large)
  fitted = fit(law, smaller, loss)
  design = laws.design_of(
    law, larger.variables, larger.y, larger.censored, fitted.design.center
  )
  error = laws.predict(design, fitted.theta[None]).log_y[0] - design.log_y
  entry["error"] = float(np.abs(error).mean())
  resampled = bootstrap.resample(fitted, smaller, _RESAMPLES, seed)
  if resampled.unsupported:
    return entry | {"reason": f"no interval: {resampled.unsupported}"}
  low, high = _interval(fitted, smaller, design, resampled.theta, seed)
  inside = (low <= design.log_y) & (design.log_y <= high)
  entry["coverage90"] = float(inside.mean())
  with np.errstate(over="ignore"):
    entry["interval90_factor"] = float(np.exp(np.median(high - low)))
  return entry


def _interval(
  fitted: Fit,
  points: Points,
  design: laws.Design,
  theta: np.ndarray,
  seed: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ends of the 90% interval of new runs' log y, [m] each."""
  center = laws.predict(design, theta).log_y
  residual = fitted.residual[~points.censored]
  # Residuals of a fit are smaller than prediction errors.
  residual = residual * np.sqrt(
    len(residual) / (len(residual) - fitted.law.size)
  )
  rng = np.random.default_rng([*seed, 1])
  spread = center + rng.choice(residual, size=center.shape)
  tail = (1 - _LEVEL) / 2
  low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
  return low, high
