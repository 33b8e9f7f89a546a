"""Intervals of parameters, and what lies at a bound and has none.

The solver keeps the floor at 0 or above, exponents within reason, and a term
may come to nothing, which leaves its exponent open. What it says there is where
it stopped, not what the runs show. Such a parameter has a one-sided interval,
or none, with the reason.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import laws

Entry = dict[str, Any]
# Of a two-sided and of a one-sided interval of 95%.
_TWO, _ONE = (0.025, 0.975), (0.05, 0.95)
# In units of the geometric mean of y, and in a term's largest share of y.
_NOTHING = 1e-9
# Beyond which an exponent is at its bound: the last steps to it are short.
_LARGEST = 0.99 * laws.LARGEST_EXPONENT


class Sides(NamedTuple):
  """Where R values lie.

  Attributes:
    of: [R], 0 inside, -1 at or beyond a lower bound, 1 an upper one, NaN where
      a value says nothing.
    bound: what it is, for messages.
    hard: whether nothing can lie beyond the lower bound, as a floor below 0:
      an end of an interval may be there.
  """

  of: np.ndarray
  bound: str
  hard: bool = False


def sides_of(
  law: laws.Law, design: laws.Design, theta: np.ndarray
) -> dict[str, Sides]:
  """Where parameters lie, by name.

  Args:
    law: that was fitted.
    design: the points that it was fitted to.
    theta: [R, P].
  """
  found = {}
  if law.floor is None:
    floor = np.where(theta[:, -1] <= _NOTHING, -1.0, 0.0)
    found["E"] = Sides(floor, "0", hard=True)
  shares = laws.predict(design, theta).shares.max(axis=2)
  for k in range(len(law.variables)):
    exponent = theta[:, 2 * k + 1]
    side = (exponent >= _LARGEST) * 1.0 - (exponent <= -_LARGEST)
    gone = shares[:, k] <= _NOTHING
    name = laws.EXPONENTS[k]
    bound = f"{laws.LARGEST_EXPONENT:g}, the largest that is tried"
    found[name] = Sides(np.where(gone, np.nan, side), bound)
    # The coefficient is that of x = 1, and goes where the exponent goes.
    outward = -1.0 if design.centre.log_x[k] < 0 else 1.0
    found[laws.COEFFICIENTS[k]] = Sides(
      np.where(gone, np.nan, side * outward), f"that of {name}"
    )
  return found


def estimate(
  value: float,
  resampled: np.ndarray,
  sides: Sides | None = None,
  at: float = 0.0,
  unsupported: str | None = None,
) -> Entry:
  """A number with its standard error and 95% interval of percentiles.

  Args:
    value: of all points.
    resampled: [R], of resamples.
    sides: where these lie; inside where None.
    at: where `value` lies.
    unsupported: why there can be no interval; None where there can.

  Returns:
    `value`, `standard_error` and `interval95`, [low, high], with None for what
    is not known: one end of a one-sided interval, or the error where some
    resamples lie at a bound. Then also `bound`, what it is, `is_bound`, whether
    the value lies there, and `at_bound`, the share of resamples there; where
    there is no interval, its `reason`.
  """
  if sides is None:
    sides = Sides(np.zeros(len(resampled)), "")
  entry: Entry = {
    "value": value if math.isfinite(value) and not math.isnan(at) else None,
    "standard_error": None,
    "interval95": None,
  }
  if unsupported:
    bound = _bound(sides, at) if at else {}
    return entry | bound | {"reason": unsupported}
  # One that says nothing may lie anywhere: on either side it is the farthest.
  unknown = np.isnan(sides.of) | np.isnan(resampled)
  if math.isnan(at) or unknown.all():
    share = unknown.mean() if len(resampled) else 1.0
    return entry | {"reason": f"{share:.0%} of resamples tell nothing of it"}
  of = np.where(unknown, 0.0, sides.of)
  if sides.hard and not at:
    # Zero may be an end; only where all of it is there, nothing is measured.
    of = np.zeros(len(resampled))
  with np.errstate(invalid="ignore"):
    ends = np.where(of == 0, resampled, of * np.inf)
  lows, highs = (
    np.sort(np.where(unknown, far, ends)) for far in (-np.inf, np.inf)
  )
  low, high = _end(lows, _TWO[0]), _end(highs, _TWO[1])
  if at < 0 or (low is None and high is not None):
    low, high = None, _end(highs, _ONE[1])
  elif at > 0 or (high is None and low is not None):
    low, high = _end(lows, _ONE[0]), None
  bound = _bound(sides._replace(of=of), at)
  if low is None and high is None:
    return entry | bound | {"reason": _no_end(of, unknown, sides.bound)}
  entry["interval95"] = [low, high]
  if low is None or high is None:
    return entry | bound
  if of.any() or unknown.any():
    # Their spread would be that of where the search ends.
    return entry | bound
  entry["standard_error"] = float(resampled.std(ddof=1))
  return entry


def _end(ends: np.ndarray, level: float) -> float | None:
  """A quantile of sorted values; None where it is infinite."""
  place = level * (len(ends) - 1)
  near = ends[[math.floor(place), math.ceil(place)]]
  if not np.isfinite(near).all():
    return None
  part = place - math.floor(place)
  return float(near[0] + part * (near[1] - near[0]))


def _bound(sides: Sides, at: float) -> Entry:
  known = np.nan_to_num(sides.of)
  share = float((known != 0).mean()) if len(known) else 0.0
  return {"bound": sides.bound, "is_bound": bool(at), "at_bound": share}


def _no_end(of: np.ndarray, unknown: np.ndarray, bound: str) -> str:
  """Why resamples leave both ends open."""
  if (of != 0).all():
    return f"all resamples lie at the bound ({bound})"
  there = f"lie at the bound ({bound})"
  shares = {there: (of != 0).mean(), "tell nothing of it": unknown.mean()}
  said = [f"{share:.0%} {what}" for what, share in shares.items() if share]
  return f"of the resamples {' and '.join(said)}"


def parameters(
  law: laws.Law,
  design: laws.Design,
  theta: np.ndarray,
  resampled: np.ndarray,
  unsupported: str | None,
) -> Mapping[str, Entry]:
  """Each parameter with its standard error and 95% interval.

  Args:
    law: that was fitted. A floor that is pinned has neither.
    design: the points that it was fitted to.
    theta: [P], of all points.
    resampled: [R, P].
    unsupported: why there can be no intervals.
  """
  values = laws.values_of(law, design.centre, theta[None])
  others = laws.values_of(law, design.centre, resampled)
  own, sides = (
    sides_of(law, design, rows) for rows in (theta[None], resampled)
  )
  found = {}
  for name, value in values.items():
    if name == "E" and law.floor is not None:
      found[name] = {
        "value": float(value[0]),
        "standard_error": None,
        "interval95": None,
        "pinned": True,
      }
      continue
    found[name] = estimate(
      float(value[0]),
      others[name],
      sides[name],
      float(own[name].of[0]),
      unsupported,
    )
  return found
