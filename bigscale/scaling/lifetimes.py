"""Estimates survival from times, some of them censored.

In the Weibull law, the share of survivors at time t is
exp(-(t / (c x^power))^shape). Its intervals are 95% intervals of the profile
likelihood: unlike standard errors, they are right if the runs limit a parameter
on one side only.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize

# Quantile of the normal distribution for 95% intervals.
_Z = 1.959964
# The Weibull fit has three parameters.
LEAST_COLLAPSED = 4
# Half of the 95% quantile of chi-square with one degree of freedom.
_DROP = 1.920729
# Largest |log| of the shape and of the ratio of times over the range of x.
# Beyond, the end of an interval counts as unknown.
_LOG_SHAPE, _LOG_RATIO = 4.0, 20.0


class Times(NamedTuple):
  """Times of n runs.

  Attributes:
    of: [n] time of the collapse, or of the run's end.
    collapsed: [n] bool, whether the run collapsed.
  """

  of: np.ndarray
  collapsed: np.ndarray


class Curve(NamedTuple):
  """Kaplan-Meier curve: share of survivors after each time of collapse.

  Attributes:
    time: [k] distinct times of collapse.
    alive: [k] share of survivors.
    low: [k] lower end of its 95% interval.
    high: [k] upper end.
  """

  time: np.ndarray
  alive: np.ndarray
  low: np.ndarray
  high: np.ndarray


def kaplan_meier(times: Times, horizon: float) -> Curve:
  """Returns the share of survivors at each time of collapse and the horizon.

  The interval is Wilson's (1927) for the number of runs that would give
  Greenwood's variance without censoring (Rothman 1978). It needs no normal
  approximation at shares of 0 and 1.

  Args:
    times: times of collapse or of the end of runs.
    horizon: last time to evaluate.
  """
  events = times.of[times.collapsed & (times.of <= horizon)]
  at = np.unique(np.append(events, horizon))
  risk = (times.of >= at[:, None]).sum(1)
  lost = ((times.of == at[:, None]) & times.collapsed).sum(1)
  left = 1 - lost / np.maximum(risk, 1)
  alive = np.cumprod(left)
  with np.errstate(divide="ignore", invalid="ignore"):
    terms = lost / (risk * (risk - lost))
    count = (1 - alive) / (alive * np.cumsum(terms))
  # Before the first collapse, only the runs observed that long tell about it;
  # after the last, every collapse does.
  count = np.where(alive == 1, risk, count)
  count = np.where(alive == 0, times.collapsed.sum(), count)
  middle = alive + _Z**2 / (2 * count)
  half = _Z * np.sqrt(alive * (1 - alive) / count + (_Z / (2 * count)) ** 2)
  low, high = (
    np.clip((middle + side * half) / (1 + _Z**2 / count), 0, 1)
    for side in (-1, 1)
  )
  return Curve(at, alive, low, high)


class Weibull(NamedTuple):
  """A fitted Weibull law.

  Attributes:
    power: exponent of x in the time of collapse.
    power95: its interval; an end is None if the runs do not limit it.
    shape: exponent of time; below 1, early collapses are more likely.
    shape95: its interval.
  """

  power: float
  power95: tuple[float | None, float | None]
  shape: float
  shape95: tuple[float | None, float | None]


def fit_weibull(times: Times, x: np.ndarray) -> Weibull:
  """Fits a Weibull law by maximum likelihood.

  Args:
    times: times of runs, of which `LEAST_COLLAPSED` or more collapsed.
    x: [n] positive variable with at least two values.
  """
  log_x = np.log(x) - np.log(x).mean()
  limit = _LOG_RATIO / np.ptp(log_x)

  def loss(power: float, log_shape: float) -> float:
    return -_log_likelihood(times, log_x, power, np.exp(log_shape))

  def of_power(power: float) -> float:
    return _least(lambda shape: loss(power, shape), _LOG_SHAPE)[1]

  def of_shape(log_shape: float) -> float:
    return _least(lambda power: loss(power, log_shape), limit)[1]

  power, least = _least(of_power, limit)
  log_shape = _least(lambda shape: loss(power, shape), _LOG_SHAPE)[0]
  most = least + _DROP
  ends = _ends(of_shape, log_shape, most, _LOG_SHAPE)
  low, high = (None if end is None else float(np.exp(end)) for end in ends)
  return Weibull(
    power,
    _ends(of_power, power, most, limit),
    float(np.exp(log_shape)),
    (low, high),
  )


def _log_likelihood(
  times: Times, log_x: np.ndarray, power: float, shape: float
) -> float:
  """Returns the log likelihood with the best c, up to a constant."""
  log = shape * (np.log(times.of) - power * log_x)
  lost = int(times.collapsed.sum())
  # The best c makes the sum of hazards equal to the number of collapses.
  top = log.max()
  center = top + np.log(np.exp(log - top).sum() / lost)
  return float((log[times.collapsed] - center).sum() + lost * np.log(shape))


def _least(loss: Callable[[float], float], limit: float) -> tuple[float, float]:
  """Returns the minimum within the limits; the losses here have one valley."""
  found = optimize.minimize_scalar(
    loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6}
  )
  return float(found.x), float(found.fun)


def _ends(
  loss: Callable[[float], float], best: float, most: float, limit: float
) -> tuple[float | None, float | None]:
  """Returns where a loss reaches `most`, below and above its minimum."""
  return tuple(
    optimize.brentq(lambda value: loss(value) - most, best, far, xtol=1e-4)
    if loss(far) > most
    else None
    for far in (-limit, limit)
  )
