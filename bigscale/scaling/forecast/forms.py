"""Forms of law for forecasts, and the priors of their parameters.

All forms are special cases of one function of size N and images D:

  y = (E + A S(N, N0)^-a + B N^-g T^-p + K T^-(p + k)) (1 + r (N / top)^h)
  S(v, v0) = (v + v0) / (1 + v0), T = S(D, D0), p = b e^(c log N)

N, D and y are in units of their geometric means, so that a and b are slopes in
the middle of the data: far beyond it, the exponents are a (1 + N0) and b (1 +
D0). `turn` multiplies the power of T beyond the break `at`.
"""

import enum
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class P(enum.IntEnum):
  """Index of a parameter; positive parameters are logs, except at and c."""

  A = 0
  a = 1
  B = 2
  b = 3
  E = 4
  N0 = 5
  D0 = 6
  at = 7
  turn = 8
  c = 9
  g = 10
  K = 11
  k = 12
  r = 13
  h = 14
  # Log of the largest N, to which the rise refers; never free.
  top = 15


COUNT = len(P)
_POWERS = (P.A, P.a, P.B, P.b)
# The free parameters of each form, besides those of the two powers. Sources:
# shift, and a second power of D for a batch that is too large (Schaipp 2026):
# own curves; break: Caballero et al. 2023 (BNSL); exponent of N: Farseer (Li et
# al. 2025); rise: widths whose learning rates were not tuned.
FORMS: Mapping[str, tuple[P, ...]] = {
  name: (*_POWERS, *more)
  for name, more in {
    "powers": (),
    "powers, floor": (P.E,),
    "shift in D": (P.E, P.D0),
    "shift in N and D": (P.E, P.N0, P.D0),
    "break in D": (P.E, P.at, P.turn),
    "two powers of D": (P.E, P.K, P.k),
    "exponent of N": (P.E, P.c, P.g),
    "exponent of N, shift in D": (P.E, P.D0, P.c, P.g),
    "rise at large N": (P.E, P.r, P.h),
    "rise at large N, shift in D": (P.E, P.D0, P.r, P.h),
  }.items()
}
# Mean and standard deviation of each free parameter. That of E is of its log
# ratio to the smallest y, unless the floor was measured.
_PRIORS: Mapping[P, tuple[float, float]] = {
  P.A: (-0.9, 1.5),
  P.B: (-0.9, 1.5),
  P.a: (-0.5, 0.8),
  P.b: (-0.5, 0.8),
  P.E: (-2.3, 1.7),
  P.N0: (-0.5, 1.3),
  P.D0: (-0.5, 1.3),
  P.turn: (0.0, 0.7),
  P.c: (0.0, 0.1),
  P.g: (0.0, 0.15),
  P.K: (-1.5, 1.0),
  P.k: (-0.3, 0.6),
  P.r: (-3.5, 1.0),
  P.h: (-0.2, 0.4),
}
# Values of parameters that remove a term.
_ABSENT: Mapping[P, float] = {
  P.E: -30.0,
  P.N0: -12.0,
  P.D0: -12.0,
  P.K: -30.0,
  P.r: -30.0,
}
# Standard deviations of a measured floor's log, and of what is not free.
KNOWN_FLOOR, FIXED = 0.2, 1e-4
# Width of a break in log D, and the range of logs.
_SOFTNESS, _FAR = 0.3, 60.0


def priors(
  n: Array, d: Array, smallest: float, floor: float | None
) -> tuple[Array, Array]:
  """Returns prior means and standard deviations of all forms, [F, P] each.

  Args:
    n: [m] centered logs of N.
    d: [m] centered logs of D.
    smallest: centered log of the smallest y.
    floor: centered log of a measured floor, or None.
  """
  free = {**_PRIORS, P.at: (float(d.mean()), float(np.ptp(d)) / 2 + 0.3)}
  mean, deviation = free[P.E]
  free[P.E] = (smallest + mean, deviation)
  always: tuple[P, ...] = ()
  if floor is not None:
    free[P.E], always = (floor, KNOWN_FLOOR), (P.E,)
  fixed = {**_ABSENT, P.top: float(n.max())}
  made = [
    [
      free[p] if p in (*form, *always) else (fixed.get(p, 0.0), FIXED)
      for p in P
    ]
    for form in FORMS.values()
  ]
  means, deviations = np.moveaxis(np.array(made), -1, 0)
  return means, deviations


def _exp(log: Array, far: float = _FAR) -> Array:
  return np.exp(np.clip(log, -_FAR, far))


def log_y(theta: Array, n: Array, d: Array) -> Array:
  """Returns the centered log of y, [..., m].

  Args:
    theta: [..., P] parameters.
    n: [m] or broadcastable, centered logs of N.
    d: [m] or broadcastable, centered logs of D.
  """
  return _evaluate(theta, n, d, slopes=False)[0]


def log_y_and_slopes(theta: Array, n: Array, d: Array) -> tuple[Array, Array]:
  """Returns `log_y` and its derivatives in the parameters, [..., P, m]."""
  return _evaluate(theta, n, d, slopes=True)


def _evaluate(
  theta: Array, n: Array, d: Array, *, slopes: bool
) -> tuple[Array, Array]:
  t = np.moveaxis(theta, -1, 0)[..., None]
  n0, d0, size, images = (
    _exp(t[P.N0], 6),
    _exp(t[P.D0], 6),
    np.exp(n),
    np.exp(d),
  )
  a = _exp(t[P.a], 4) * (1 + n0)
  b = _exp(t[P.b] + t[P.c] * n, 4) * (1 + d0)
  log_s = np.log((size + n0) / (1 + n0))
  log_t = np.log((images + d0) / (1 + d0))
  past, origin = _exp((d - t[P.at]) / _SOFTNESS), _exp(-t[P.at] / _SOFTNESS)
  bent = _SOFTNESS * np.log((1 + past) / (1 + origin))
  turn, more = _exp(t[P.turn], 4), _exp(t[P.k], 4)
  log_t = log_t + (turn - 1) * bent
  by_n = _exp(t[P.A] - a * log_s)
  by_d = _exp(t[P.B] - t[P.g] * n - b * log_t)
  by_k = _exp(t[P.K] - (b + more) * log_t)
  floor, steep = _exp(t[P.E]), _exp(t[P.h], 4) * (n - t[P.top])
  total, risen = by_n + by_d + by_k + floor, _exp(t[P.r] + steep)
  f = np.log(total * (1 + risen))
  if not slopes:
    return f, np.empty(0)
  by_n, by_d, by_k = by_n / total, by_d / total, by_k / total
  risen = risen / (1 + risen)
  by_t = -by_d * b - by_k * (b + more)
  of_n, of_d = n0 / (1 + n0), d0 / (1 + d0)
  j = np.zeros((*theta.shape, f.shape[-1]), f.dtype)
  j[..., P.A, :], j[..., P.a, :] = by_n, -by_n * a * log_s
  j[..., P.B, :], j[..., P.b, :] = by_d, -(by_d + by_k) * b * log_t
  j[..., P.E, :] = floor / total
  j[..., P.K, :], j[..., P.k, :] = by_k, -by_k * more * log_t
  j[..., P.N0, :] = -by_n * a * (n0 / (n0 + size) - of_n * (1 - log_s))
  j[..., P.D0, :] = by_t * (d0 / (d0 + images) - of_d) + j[..., P.b, :] * of_d
  j[..., P.at, :] = (
    by_t * (1 - turn) * (past / (1 + past) - origin / (1 + origin))
  )
  j[..., P.turn, :] = by_t * turn * bent
  j[..., P.c, :], j[..., P.g, :] = j[..., P.b, :] * n, -by_d * n
  j[..., P.r, :], j[..., P.h, :] = risen, risen * steep
  return f, j
