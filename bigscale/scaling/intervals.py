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
# Resamples that tell nothing of a number, at most, for an interval of it.
_UNKNOWN = 0.025


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

  def take(self, rows: Any) -> "Sides":
    """Of some values."""
    return self._replace(of=self.of[rows])


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
      np.where(gone, -1.0, side * outward), f"that of {name}"
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
    is not known: one end of a one-sided interval; then or at a bound also
    `bound`, what it is, and `at_bound`, the share of resamples there; where
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
    return entry | _bound(sides, at) | {"reason": unsupported}
  unknown = np.isnan(sides.of) | np.isnan(resampled)
  if math.isnan(at) or not len(resampled) or unknown.mean() > _UNKNOWN:
    share = unknown.mean() if len(resampled) else 1.0
    return entry | {"reason": f"{share:.0%} of resamples tell nothing of it"}
  sides, resampled = sides.take(~unknown), resampled[~unknown]
  if sides.hard and not at:
    # Zero may be an end; only where all of it is there, nothing is measured.
    sides = sides._replace(of=np.zeros(len(resampled)))
  with np.errstate(invalid="ignore"):
    ends = np.where(sides.of == 0, resampled, sides.of * np.inf)
  ends = np.sort(ends)
  low, high = (_end(ends, level) for level in _TWO)
  if at < 0 or low is None:
    low, high = None, _end(ends, _ONE[1])
    if at > 0:
      high = None
  elif at > 0 or high is None:
    low, high = _end(ends, _ONE[0]), None
  if low is None and high is None:
    return entry | _bound(sides, at) | {"reason": _no_end(sides)}
  entry["interval95"] = [low, high]
  if None in entry["interval95"]:
    return entry | _bound(sides, at)
  if not sides.of.any():
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
  share = float((sides.of != 0).mean()) if len(sides.of) else 0.0
  if not at and not share:
    return {}
  return {"bound": sides.bound, "is_bound": bool(at), "at_bound": share}


def _no_end(sides: Sides) -> str:
  share = float((sides.of != 0).mean())
  who = "all" if share == 1 else f"{share:.0%} of"
  return f"{who} resamples lie at the bound ({sides.bound})"


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
