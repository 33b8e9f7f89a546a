"""Forecasts of whole runs that were held out, and what they say of errors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigscale.scaling.forecast.forms import Array
from bigscale.scaling.forecast.noise import Mask, Noise, Rows

# Scale of the Cauchy prior of the error of an exponent that no form has.
MISFIT = 0.07
# Values of that error, on a grid.
MISFITS = np.concatenate([[0.0], np.geomspace(0.01, 1.0, 25)])
# Weight of a held-out set, because sets share runs.
_OVERLAP = 0.5
# Power of the evidence in the weights of forms. Rows are not as independent as
# the covariance says.
_EVIDENCE = 0.5
# Held-out rows lie between these factors beyond the fitted ones.
_NEAR, _FAR = 1.4, 4.5


class HeldOut(NamedTuple):
  """Rows to fit and rows to forecast; no run is in both.

  Attributes:
    name: what was held out.
    fitted: mask of the rows to fit.
    forecast: mask of the rows to forecast.
  """

  name: str
  fitted: Mask
  forecast: Mask


class Checked(NamedTuple):
  """Mean error of the forecasts of one kind of held-out rows.

  Attributes:
    name: what was held out.
    error: mean of log y seen minus log y forecast.
    deviation: standard deviation of the forecast of that mean.
    beyond_n: mean log distance beyond the fitted rows along N, see `beyond`.
    beyond_d: the same along D.
    inside90: share of the held-out rows in their 90% intervals.
    rows: number of held-out rows.
  """

  name: str
  error: float
  deviation: float
  beyond_n: float
  beyond_d: float
  inside90: float
  rows: int


def held_out(rows: Rows) -> list[HeldOut]:
  """Returns the sets of rows to hold out, each beyond the rows that are fitted.

  They are the one or two largest N, and the rows beyond 1/2, 1/4 and 1/8 of the
  largest D and of the largest N D. If checkpoints of one run would be on both
  sides, a third of the runs is forecast from the others.
  """
  sizes, cuts = np.unique(rows.n), []
  for left in range(1, min(3, len(sizes) - 1)):
    cuts.append(
      (f"{left} largest N", rows.n < sizes[-left], rows.n >= sizes[-left])
    )
  for name, by in (("D", rows.d), ("N D", rows.n + rows.d)):
    for times in (2, 4, 8):
      far = by - by.max() + np.log(times) - 1e-9
      beyond = (far > np.log(_NEAR)) & (far < np.log(_FAR))
      cuts.append((f"{name} beyond 1/{times}", far <= 0, beyond))
  fold = np.zeros(len(rows.n), int)
  for size in sizes:
    mine = rows.n == size
    fold[mine] = np.unique(rows.run[mine], return_inverse=True)[1] % 3
  found = []
  for name, fit, test in cuts:
    straddle = len(np.intersect1d(rows.run[fit], rows.run[test])) > 0
    for third in range(3) if straddle else (None,):
      fitted = fit if third is None else fit & (fold != third)
      forecast = test if third is None else test & (fold == third)
      if forecast.any() and _is_wide(rows, fitted):
        found.append(HeldOut(name, fitted, forecast))
  return found


def _is_wide(rows: Rows, fitted: Mask) -> bool:
  places = np.unique(np.stack([rows.n, rows.d])[:, fitted], axis=1)
  sizes, lengths = map(np.unique, places)
  return places.shape[1] >= 8 and len(sizes) >= 2 and len(lengths) >= 3


def beyond(n: Array, d: Array, rows: Rows, chosen: Mask) -> tuple[Array, Array]:
  """Returns how far places lie beyond rows, along N and along D, [2, places].

  The distance along D is to the longest run of that size or a larger one.

  Args:
    n: [places] centered logs of N.
    d: [places] centered logs of D.
    rows: rows of finished runs.
    chosen: mask of the rows to measure from.

  Returns:
    Log distances, and log distances in units of half the log range of the rows,
    within limits: a short range says less about what lies beyond.
  """
  of_n, of_d = rows.n[chosen], rows.d[chosen]
  longest = np.array(
    [of_d[of_n >= size - 1e-9].max() for size in np.minimum(n, of_n.max())]
  )
  apart = np.maximum(np.stack([n - of_n.max(), d - longest]), 0)
  seen = np.maximum([[np.ptp(of_n)], [np.ptp(of_d)]], 1e-9)
  return apart, apart * np.clip(2 / seen, 0.75, 4)


def weights(evidence: Array) -> Array:
  """Returns the weights of the forms from their log evidence, [F]."""
  raised = np.exp(_EVIDENCE * (evidence - evidence.max()))
  return raised / raised.sum()


def judge(
  rows: Rows,
  noise: Noise,
  sets: Sequence[HeldOut],
  curves: Array,
  of_forms: Array,
) -> tuple[Array, list[Checked]]:
  """Compares forecasts of held-out rows with what was seen.

  Args:
    rows: rows of finished runs.
    noise: their spread.
    sets: the held-out sets.
    curves: [sets, F, draws, places] forecasts of log y.
    of_forms: [F] weights of the forms.

  Returns:
    Probabilities of the pairs of errors of the exponents along N and along D,
    on the grid `MISFITS` x `MISFITS`, and the errors by kind of set.
  """
  log = np.log(np.gradient(MISFITS)) - np.log1p((MISFITS / MISFIT) ** 2)
  log = log[:, None] + log
  checked = []
  for name in dict.fromkeys(one.name for one in sets):
    parts = [
      _compare(rows, noise, one, lines, of_forms)
      for one, lines in zip(sets, curves, strict=True)
      if one.name == name
    ]
    error, variance, far_n, far_d, runs = np.mean([p[:5] for p in parts], 0)
    variance += (noise.run + noise.row) / (runs * len(parts))
    grid = MISFITS**2
    total = variance + grid[:, None] * far_n**2 + grid * far_d**2
    log -= _OVERLAP * 0.5 * (error**2 / total + np.log(total))
    inside = np.concatenate([p[5] for p in parts])
    checked.append(
      Checked(
        name,
        float(error),
        float(np.sqrt(variance)),
        float(far_n),
        float(far_d),
        float(inside.mean()),
        len(inside),
      )
    )
  chance = np.exp(log - log.max())
  return chance / chance.sum(), checked


def _compare(
  rows: Rows, noise: Noise, one: HeldOut, lines: Array, of_forms: Array
) -> tuple[float, float, float, float, int, Mask]:
  """Returns error, variance, distances, runs, and which rows are inside."""
  n, d, y = (part[one.forecast] for part in (rows.n, rows.d, rows.y))
  far = beyond(n, d, rows, one.fitted)[1]
  lines = lines[..., rows.place[one.forecast]]
  mean = lines.mean(2)
  middle = of_forms @ mean.mean(1)
  of_mean = of_forms @ (mean.var(1) + (mean.mean(1) - middle) ** 2)
  center = np.einsum("f,fsr->r", of_forms, lines) / lines.shape[1]
  apart = np.einsum("f,fsr->r", of_forms, (lines - center) ** 2)
  spread = apart / lines.shape[1] + noise.run + noise.row
  spread = spread + MISFIT**2 * (far**2).sum(0)
  inside = np.abs(y - center) < 1.645 * np.sqrt(spread)
  runs = len(np.unique(rows.run[one.forecast]))
  far_n, far_d = far.mean(1)
  return y.mean() - middle, of_mean, far_n, far_d, runs, inside


def draw_misfits(chance: Array, count: int, rng: np.random.Generator) -> Array:
  """Draws errors of the exponents along N and D, [count, 2]."""
  cells = np.divmod(
    rng.choice(chance.size, count, p=chance.ravel()), len(MISFITS)
  )
  return MISFITS[np.stack(cells, 1)] * rng.standard_normal((count, 2))
