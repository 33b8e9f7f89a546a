"""Fits a law under other choices than the one that is reported.

The choices are the floor and a cut: rows of the first part of training, below a
fraction of the largest x2, are left out. If the curve of a run is not a power,
its exponent depends on where the rows begin, and no interval of one fit shows
it. Each choice is also judged by forecasts of held-out runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigscale.scaling import bootstrap, laws
from bigscale.scaling.fit import Loss, fit, obstacle
from bigscale.scaling.forecast import backtest
from bigscale.scaling.forecast.noise import Rows
from bigscale.scaling.laws import Points

# Rows with less than this fraction of the largest x2 are left out.
CUTS = (0.0, 1 / 16, 1 / 8, 1 / 4, 3 / 8)
# Of the bootstrap of differences, and ends of its interval. With 99%, a warning
# by chance is rare over four cuts and two exponents.
_RESAMPLES, _ENDS = 200, (0.005, 0.995)


def choices(
  points: Points, floor: float | None, loss: Loss, *, judged: bool
) -> list[dict[str, Any]]:
  """Fits y = E + A x^-alpha + B x2^-beta under each floor and cut.

  Args:
    points: rows of runs, whose x2 grows within a run.
    floor: floor of the reported law.
    loss: loss to fit with.
    judged: whether to try other floors and to forecast held-out runs.

  Returns:
    For each choice, `floor` (free, none or a number), `cut` (fraction of the
    largest x2), `from` (its value), `rows`, `parameters`, and `error`: the mean
    |log error| of held-out rows, and `signed`, the mean of log y over its
    forecast, both None if not `judged`. What cannot be fitted is None with a
    `reason`. Errors are over the held-out sets that every choice could be
    fitted to. Cuts that leave out the same rows are one choice.
  """
  sets = _held_out(points) if judged else []
  floors = (floor, None, 0.0) if judged else (floor,)
  found = []
  for value in dict.fromkeys(floors):
    law = laws.Law(("x", "x2"), value)
    for cut, late in _cuts(points).items():
      entry: dict[str, Any] = {
        "floor": {None: "free", 0.0: "none"}.get(value, value),
        "cut": cut,
        "from": float(points.variables["x2"][late].min()),
        "rows": int(late.sum()),
        "parameters": None,
      }
      chosen = points.take(late)
      reason = obstacle(law, chosen)
      if reason is None:
        entry["parameters"] = fit(law, chosen, loss).values
      else:
        entry["reason"] = reason
      errors = [_errors(law, points, late, one, loss) for one in sets]
      found.append((entry, errors))
  # A choice without parameters does not limit the sets of the others.
  fitted = [errors for entry, errors in found if entry["parameters"]]
  common = [
    index
    for index in range(len(sets))
    if all(errors[index] is not None for errors in fitted)
  ]
  for entry, errors in found:
    entry |= {"error": None, "signed": None}
    if common and entry["parameters"]:
      kept = np.concatenate([errors[index] for index in common])
      entry["error"] = float(np.abs(kept).mean())
      entry["signed"] = float(kept.mean())
  return [entry for entry, _ in found]


def has_warmup(points: Points) -> bool:
  """Returns whether x2 grows within runs, so that first rows can be cut."""
  if "x2" not in points.variables:
    return False
  return bool((np.bincount(points.group[~points.censored]) > 2).any())


def _held_out(points: Points) -> list[backtest.HeldOut]:
  n, d = (np.log(points.variables[name]) for name in ("x", "x2"))
  seen = ~points.censored
  rows = Rows(n, d, np.log(points.y), points.group, points.group)
  return [
    one._replace(fitted=one.fitted & seen, forecast=one.forecast & seen)
    for one in backtest.held_out(rows)
    if (one.forecast & seen).any()
  ]


def _errors(
  law: laws.Law,
  points: Points,
  late: np.ndarray,
  held: backtest.HeldOut,
  loss: Loss,
) -> np.ndarray | None:
  """Returns log y over forecast of held-out rows, or None without a fit."""
  small = points.take(held.fitted & late)
  if not len(small.y) or obstacle(law, small) is not None:
    return None
  fitted = fit(law, small, loss)
  large = points.take(held.forecast)
  design = laws.design_of(
    law, large.variables, large.y, large.censored, fitted.design.center
  )
  return design.log_y - laws.predict(design, fitted.theta[None]).log_y[0]


def moved(
  points: Points, floor: float | None, loss: Loss, seed: Sequence[int]
) -> list[str]:
  """Returns a warning for each exponent that a cut moves, beyond chance.

  The difference between the fits with and without the first rows is
  bootstrapped: both are fitted to the same resamples of runs.

  Args:
    points: rows of runs, whose x2 grows within a run.
    floor: floor of the law.
    loss: loss to fit with.
    seed: seed of the bootstrap.
  """
  law = laws.Law(("x", "x2"), floor)
  whole = _resampled(law, points, loss, seed)
  found: dict[str, str] = {}
  for late in _cuts(points).values():
    cut = points.take(late)
    same_runs = cut.group.max() == points.group.max()
    if late.all() or not same_runs or obstacle(law, cut) is not None:
      continue
    part = _resampled(law, cut, loss, seed)
    for index, name in enumerate(laws.EXPONENTS):
      (all_rows, all_resampled), (value, resampled) = (
        (theta[2 * index + 1], draws[:, 2 * index + 1])
        for theta, draws in (whole, part)
      )
      if len(resampled) != len(all_resampled):
        continue
      low, high = np.quantile(resampled - all_resampled, _ENDS)
      if low > 0 or high < 0:
        found[name] = (
          f"{name} is {all_rows:.3g} of all rows and {value:.3g} without those "
          f"before x2 = {cut.variables['x2'].min():g}, more than by "
          "chance: y is not this law throughout, and the intervals do not "
          "account for it"
        )
  return list(found.values())


def _resampled(
  law: laws.Law, points: Points, loss: Loss, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  fitted = fit(law, points, loss)
  drawn = bootstrap.resample(fitted, points, _RESAMPLES, seed)
  return fitted.theta, drawn.theta


def _cuts(points: Points) -> dict[float, np.ndarray]:
  """Returns the rows that each cut leaves, without cuts that are the same."""
  x2 = points.variables["x2"]
  found: dict[int, tuple[float, np.ndarray]] = {}
  for cut in CUTS:
    late = x2 >= cut * x2.max() * (1 - 1e-9)
    found.setdefault(int(late.sum()), (cut, late))
  return dict(found.values())
