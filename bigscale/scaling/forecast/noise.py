"""The spread of rows around a law: between runs and within them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigscale.scaling.forecast import forms
from bigscale.scaling.forecast.forms import Array
from bigscale.scaling.forecast.posterior import Problems

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Residuals are clipped at this many robust standard deviations.
_CLIP = 3.5
# Share of the spread within a run that neighboring rows never share.
_NUGGET = 0.05


class Rows(NamedTuple):
  """Rows of finished runs, sorted by run and D.

  Attributes:
    n: [rows] centered log of N.
    d: [rows] centered log of D.
    y: [rows] centered log of y.
    run: [rows] number of the run.
    place: [rows] number of the pair of N and D.
  """

  n: Array
  d: Array
  y: Array
  run: Ints
  place: Ints


class Noise(NamedTuple):
  """The spread of log y.

  Attributes:
    run: variance of the effect of a run.
    row: variance within a run.
    rho: correlation of neighboring rows within a run.
    degrees: degrees of freedom of the variances.
    residual: [rows] residuals, as if each place had infinitely many runs.
  """

  run: float
  row: float
  rho: float
  degrees: float
  residual: Array


# Assumed for the first fit.
ASSUMED = Noise(0.05**2, 0.05**2, 0.0, 10.0, np.zeros(1))


def measure(rows: Rows, fitted: Array) -> tuple[Noise, Array]:
  """Measures the spread within places that have several runs, else about a fit.

  Args:
    rows: rows of finished runs.
    fitted: [rows] fitted log y.

  Returns:
    The spread, and log y with outliers moved to the limit, [rows].
  """
  runs_here = np.bincount(rows.place)[rows.place]
  residual = rows.y - fitted
  limit = _CLIP * (1.4826 * np.median(np.abs(residual)) + 1e-6)
  y = fitted + np.clip(residual, -limit, limit)
  # Share of the variance that the mean of a place, or the fit, absorbs.
  absorbed, middle = np.full(len(y), min(0.5, 6 / len(y))), fitted
  if (runs_here > 1).mean() > 0.6:
    mean = np.bincount(rows.place, y) / np.maximum(np.bincount(rows.place), 1)
    several = runs_here > 1
    absorbed = several / runs_here
    middle = np.where(several, mean[rows.place], fitted)
  whole = (rows.y - middle) / np.sqrt(1 - absorbed)
  clipped = np.clip((y - middle) / np.sqrt(1 - absorbed), -limit, limit)
  by_run = [clipped[rows.run == r] for r in np.unique(rows.run)]
  near = np.concatenate([r[1:] * r[:-1] for r in by_run])
  # Rows that are three or more apart share little but the effect of the run.
  far = np.concatenate(
    [r[lag:] * r[:-lag] for r in by_run for lag in range(3, max(len(r), 4))]
  )
  total = max(float((clipped**2).mean()), 1e-8)
  effect = float(far.mean()) if len(far) else 0.3 * total
  effect = float(np.clip(effect, 0.05 * total, 0.9 * total))
  rho = (near.mean() - effect) / (total - effect) if len(near) else 0.0
  degrees = max(len(by_run) * (1 - float(absorbed.mean())), 3.0)
  rho = float(np.clip(rho, 0, 0.8))
  return Noise(effect, total - effect, rho, degrees, whole), y


def pose(
  rows: Rows, noise: Noise, sets: Sequence[Mask], priors: tuple[Array, Array]
) -> Problems:
  """Returns the fits of all forms to each set of rows.

  Args:
    rows: rows of finished runs.
    noise: their spread.
    sets: masks of rows.
    priors: see `forms.priors`.

  Returns:
    len(sets) x len(FORMS) problems; those of a set are consecutive.
  """
  made = [_by_place(rows, noise, chosen) for chosen in sets]
  count = len(forms.FORMS)
  target, root = (
    np.repeat(np.stack(part), count, 0) for part in zip(*made, strict=True)
  )
  mean, deviation = (np.tile(part, (len(sets), 1)) for part in priors)
  return Problems(target, root, mean, deviation)


def _by_place(rows: Rows, noise: Noise, chosen: Mask) -> tuple[Array, Array]:
  """Returns the weighted mean of log y by place, and a root of its precision.

  Rows of a run share its effect, and neighbors are correlated (AR(1)).
  """
  places = int(rows.place.max()) + 1
  precision, moment = np.zeros((places, places)), np.zeros(places)
  for run in np.unique(rows.run[chosen]):
    mine = np.flatnonzero(chosen & (rows.run == run))
    lag = np.abs(np.subtract.outer(np.arange(len(mine)), np.arange(len(mine))))
    within = noise.rho**lag + _NUGGET * (lag == 0)
    inverse = np.linalg.inv(noise.run + noise.row * within)
    at = rows.place[mine]
    np.add.at(precision, np.ix_(at, at), inverse)
    np.add.at(moment, at, inverse @ rows.y[mine])
  values, vectors = np.linalg.eigh(precision)
  known = values > 1e-9 * values[-1]
  values, vectors = values[known], vectors[:, known]
  target = vectors @ ((vectors.T @ moment) / values)
  return target, (vectors * np.sqrt(values)) @ vectors.T
