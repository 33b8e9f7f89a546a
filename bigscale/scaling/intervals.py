"""Computes intervals of parameters, with special treatment of bounds.

The solver keeps the floor at 0 or above and limits exponents. A term can also
vanish, which leaves its exponent undetermined. In these cases, the value
reflects the limits of the search and not the runs. Such a parameter gets a
one-sided interval, or a reason why it has none.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import laws

Entry = dict[str, Any]
# Quantiles of a two-sided and of a one-sided 95% interval.
_TWO_SIDED, _ONE_SIDED = (0.025, 0.975), (0.05, 0.95)
# A floor below this value, in units of the geometric mean of y, counts as zero.
# So does a term if its largest share of y is below this value.
_ZERO_BELOW = 1e-9
# An exponent beyond this value counts as at its bound, because the solver's
# last steps toward the bound are short.
_AT_BOUND_FROM = 0.99 * laws.LARGEST_EXPONENT


class Sides(NamedTuple):
  """Positions of R values relative to their bounds.

  Attributes:
    of: [R], 0 inside, -1 at or beyond a lower bound, 1 at or beyond an upper
      bound, NaN if the value is undetermined.
    bound: description of the bound, for messages.
    hard: whether values beyond the lower bound are impossible, such as a floor
      below 0. The bound can then be an end of an interval.
  """

  of: np.ndarray
  bound: str
  hard: bool = False


def sides_of(
  law: laws.Law, design: laws.Design, theta: np.ndarray
) -> dict[str, Sides]:
  """Returns the positions of parameters relative to their bounds, by name.

  Args:
    law: fitted law.
    design: points that the law was fitted to.
    theta: [R, P] fitted parameters.
  """
  found = {}
  if law.floor is None:
    floor = np.where(theta[:, -1] <= _ZERO_BELOW, -1.0, 0.0)
    found["E"] = Sides(floor, "0", hard=True)
  shares = laws.predict(design, theta).shares.max(axis=2)
  for k in range(len(law.variables)):
    exponent = theta[:, 2 * k + 1]
    side = (exponent >= _AT_BOUND_FROM) * 1.0 - (exponent <= -_AT_BOUND_FROM)
    vanished = shares[:, k] <= _ZERO_BELOW
    name = laws.EXPONENTS[k]
    bound = f"{laws.LARGEST_EXPONENT:g}, the largest value tried"
    found[name] = Sides(np.where(vanished, np.nan, side), bound)
    # The coefficient is the term's value at x = 1, so it diverges with the
    # exponent.
    outward = -1.0 if design.center.log_x[k] < 0 else 1.0
    found[laws.COEFFICIENTS[k]] = Sides(
      np.where(vanished, np.nan, side * outward), f"set by {name}"
    )
  return found


def estimate(
  value: float,
  resampled: np.ndarray,
  sides: Sides | None = None,
  at: float = 0.0,
  unsupported: str | None = None,
) -> Entry:
  """Returns a value with its standard error and 95% percentile interval.

  Args:
    value: value fitted to all points.
    resampled: [R] values fitted to resamples.
    sides: positions of `resampled` relative to the bounds; None if all lie
      inside.
    at: position of `value`, as in `Sides.of`.
    unsupported: why no interval can be given, or None if one can.

  Returns:
    `value`, `standard_error` and `interval95`, [low, high]. Unknown values are
    None: one end of a one-sided interval, or the error if some resamples lie at
    a bound. In that case the entry also has `bound`, its description,
    `is_bound`, whether the value lies at it, and `at_bound`, the share of
    resamples at it. Without an interval, the entry has a `reason`.
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
  # An undetermined value may lie anywhere, so it extends both ends.
  unknown = np.isnan(sides.of) | np.isnan(resampled)
  if math.isnan(at) or unknown.all():
    share = unknown.mean() if len(resampled) else 1.0
    return entry | {"reason": f"{share:.0%} of resamples do not determine it"}
  of = np.where(unknown, 0.0, sides.of)
  if sides.hard and not at:
    # A hard bound is a valid end unless the value itself lies at it.
    of = np.zeros(len(resampled))
  with np.errstate(invalid="ignore"):
    ends = np.where(of == 0, resampled, of * np.inf)
  lows, highs = (
    np.sort(np.where(unknown, far, ends)) for far in (-np.inf, np.inf)
  )
  low, high = _quantile(lows, _TWO_SIDED[0]), _quantile(highs, _TWO_SIDED[1])
  if at < 0 or (low is None and high is not None):
    low, high = None, _quantile(highs, _ONE_SIDED[1])
  elif at > 0 or (high is None and low is not None):
    low, high = _quantile(lows, _ONE_SIDED[0]), None
  bound = _bound(sides._replace(of=of), at)
  if low is None and high is None:
    return (
      entry | bound | {"reason": _why_no_interval(of, unknown, sides.bound)}
    )
  entry["interval95"] = [low, high]
  if low is None or high is None:
    return entry | bound
  if of.any() or unknown.any():
    # The spread would depend on where the search stops.
    return entry | bound
  entry["standard_error"] = float(resampled.std(ddof=1))
  return entry


def _quantile(ends: np.ndarray, level: float) -> float | None:
  """Returns a quantile of sorted values, or None if it is infinite."""
  position = level * (len(ends) - 1)
  near = ends[[math.floor(position), math.ceil(position)]]
  if not np.isfinite(near).all():
    return None
  fraction = position - math.floor(position)
  return float(near[0] + fraction * (near[1] - near[0]))


def _bound(sides: Sides, at: float) -> Entry:
  known = np.nan_to_num(sides.of)
  share = float((known != 0).mean()) if len(known) else 0.0
  return {"bound": sides.bound, "is_bound": bool(at), "at_bound": share}


def _why_no_interval(of: np.ndarray, unknown: np.ndarray, bound: str) -> str:
  """Returns why neither end of an interval is known."""
  if (of != 0).all():
    return f"all resamples lie at the bound ({bound})"
  shares = {
    f"lie at the bound ({bound})": (of != 0).mean(),
    "do not determine it": unknown.mean(),
  }
  parts = [f"{share:.0%} {what}" for what, share in shares.items() if share]
  return f"of the resamples, {' and '.join(parts)}"


def parameters(
  law: laws.Law,
  design: laws.Design,
  theta: np.ndarray,
  resampled: np.ndarray,
  unsupported: str | None,
) -> Mapping[str, Entry]:
  """Returns each parameter with its standard error and 95% interval.

  A pinned floor has neither.

  Args:
    law: fitted law.
    design: points that the law was fitted to.
    theta: [P] parameters fitted to all points.
    resampled: [R, P] parameters fitted to resamples.
    unsupported: why no interval can be given, or None if one can.
  """
  values = laws.values_of(law, design.center, theta[None])
  others = laws.values_of(law, design.center, resampled)
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
