"""Forecasts y at sizes and lengths beyond the runs, with intervals.

Five errors are added on log y: of the parameters (posterior draws), of the form
(forms weighted by their evidence), of what no form has (an error of the
exponents, as held-out runs show it), of new runs, and of the size of their
spread.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling.forecast import backtest, forms, noise, posterior
from bigscale.scaling.forecast.backtest import Checked, HeldOut
from bigscale.scaling.forecast.forms import Array
from bigscale.scaling.forecast.noise import Noise, Rows
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection
from bigscale.spec import SpecError, require

# Draws and Metropolis steps for the law, and for each held-out set.
_DRAWS, _STEPS = 400, 300
_TRIALS, _TRIAL_STEPS = 80, 12
# Draws of the forecast.
_SAMPLES = 4000
# Random starts of each search, besides the prior mean.
_STARTS = 6
_QUANTILES = (0.5, 0.25, 0.75, 0.05, 0.95)
# Places of the same N and D differ by less in logs.
_DIGITS = 9


class Fitted(NamedTuple):
  """What is known from the rows before any forecast.

  Attributes:
    rows: rows of finished runs, as they are.
    center: means of the logs of N, D and y.
    noise: spread of the rows.
    theta: [F, draws, P] posterior draws of each form.
    weights: [F] weights of the forms.
    misfits: probabilities of the errors of the exponents (`backtest.judge`).
    sets: the held-out sets.
    checked: errors of their forecasts.
    strain: largest distance of the likeliest form's mode from its prior mean,
      in standard deviations.
  """

  rows: Rows
  center: Array
  noise: Noise
  theta: Array
  weights: Array
  misfits: Array
  sets: Sequence[HeldOut]
  checked: Sequence[Checked]
  strain: float


def predict(
  selection: Selection,
  at: Sequence[tuple[float, float]],
  *,
  floor: float | None = None,
  mean_of: int = 1,
  seed: int = 0,
) -> dict[str, Any]:
  """Returns the forecasts and their grounds as JSON values.

  Args:
    selection: rows of a table with the variables x (N) and x2 (D).
    at: values of x and x2 to forecast at.
    floor: measured y of reals against reals, or None.
    mean_of: the forecast is of the mean of this many new runs; 0 forecasts the
      curve itself.
    seed: seed of the draws.

  Raises:
    SpecError: the rows do not allow a forecast that could be checked.
  """
  fitted = fit(selection.points, floor, seed)
  rng = np.random.default_rng((seed, 1))
  asked = np.log(np.array(at).T) - fitted.center[:2, None]
  samples = _samples(fitted, asked, mean_of, rng)
  quantiles = np.quantile(samples, _QUANTILES, axis=0) + fitted.center[2]
  tested = _tested(fitted)
  every = np.ones(len(fitted.rows.n), bool)
  apart, _ = backtest.beyond(*asked, fitted.rows, every)
  return {
    "names": dict(selection.names),
    "forecasts": [
      {
        "x": x,
        "x2": x2,
        "median": q[0],
        "interval50": [q[1], q[2]],
        "interval90": [q[3], q[4]],
        "beyond": {"x": math.exp(far[0]), "x2": math.exp(far[1])},
        "tested": bool((far <= tested + 0.1).all()),
      }
      for (x, x2), q, far in zip(
        at, np.exp(quantiles).T.tolist(), apart.T, strict=True
      )
    ],
    "mean_of": mean_of,
    "held_out": [one._asdict() for one in fitted.checked],
    "tested": {"x": math.exp(tested[0]), "x2": math.exp(tested[1])},
    "forms": dict(zip(forms.FORMS, fitted.weights.tolist(), strict=True)),
    "exponent_error": {
      "x": float(fitted.misfits.sum(1) @ backtest.MISFITS),
      "x2": float(fitted.misfits.sum(0) @ backtest.MISFITS),
    },
    "spread": {
      "run": math.sqrt(fitted.noise.run),
      "row": math.sqrt(fitted.noise.row),
      "correlation": fitted.noise.rho,
    },
    "rows": len(fitted.rows.n),
    "runs": selection.runs,
    "excluded": list(selection.excluded),
    "warnings": [
      *selection.notes,
      *(selection.tuned.warnings() if selection.tuned else ()),
      *_warnings(fitted, selection.points, asked, tested),
    ],
  }


def fit(points: Points, floor: float | None, seed: int) -> Fitted:
  """Fits all forms to all rows, and to the rows of each held-out set.

  Raises:
    SpecError: no runs can be held out.
  """
  rng = np.random.default_rng((seed, 0))
  raw, center = _rows_of(points)
  places = np.unique(np.round([raw.n, raw.d], _DIGITS), axis=1)
  smallest = math.exp(float(raw.y.min() + center[2]))
  require(
    floor is None or floor < smallest,
    f"floor={floor} is not below the smallest y of the runs, {smallest:.4g}; "
    "give the score of reals against reals, or omit it",
  )
  known = None if floor is None else math.log(floor) - float(center[2])
  priors = forms.priors(*places, float(raw.y.min()), known)
  rows, spread, starts = _first_fits(raw, places, priors, rng)
  sets = backtest.held_out(rows)
  require(
    bool(sets),
    "no runs can be held out, so a forecast could not be checked: it needs at "
    "least 3 values of x, or 3 values of x2 over a factor of 2 and more, and "
    "8 pairs of both among the smaller runs; use more sizes or lengths, or "
    "`bigscale scaling fit` for the law within the runs",
  )
  masks = [np.ones(len(raw.n), bool), *(one.fitted for one in sets)]
  problems = noise.pose(rows, spread, masks, priors)
  again = np.tile(starts[:, [0, -1]], (len(masks), 1, 1))
  modes = posterior.find_modes(problems, *places, again)
  count = len(forms.FORMS)

  def draws(chosen: slice, number: int, steps: int) -> tuple[Array, Array]:
    these = posterior.Modes(*(part[chosen] for part in modes))
    return posterior.draw(
      problems.take(chosen), *places, these, number, steps, rng
    )

  theta, evidence = draws(slice(count), _DRAWS, _STEPS)
  trials, _ = draws(slice(count, None), _TRIALS, _TRIAL_STEPS)
  curves = forms.log_y(trials, *places)
  curves = curves.reshape(len(sets), count, _TRIALS, -1)
  weights = backtest.weights(evidence)
  misfits, checked = backtest.judge(rows, spread, sets, curves, weights)
  likeliest = weights.argmax()
  strain = (modes.theta[likeliest] - priors[0][likeliest]) / priors[1][
    likeliest
  ]
  return Fitted(
    raw,
    center,
    spread,
    theta,
    weights,
    misfits,
    sets,
    checked,
    float(np.abs(strain).max()),
  )


def _first_fits(
  raw: Rows,
  places: Array,
  priors: tuple[Array, Array],
  rng: np.random.Generator,
) -> tuple[Rows, Noise, Array]:
  """Fits all rows, which gives their spread.

  Returns:
    The rows with outliers drawn in, their spread, and starts for other fits:
    [F, S, P], the last of which are the modes.
  """
  starts, rows, spread = _starts(priors, rng), raw, noise.ASSUMED
  for _ in range(2):  # The second fit weights rows by the spread of the first.
    every = np.ones(len(raw.n), bool)
    problems = noise.pose(rows, spread, [every], priors)
    modes = posterior.find_modes(problems, *places, starts)
    best = modes.theta[modes.cost.argmin(), None]
    curve = forms.log_y(best, *places)[0][raw.place]
    spread, y = noise.measure(raw, curve)
    rows = raw._replace(y=y)
    starts = np.concatenate([starts[:, :3], modes.theta[:, None]], 1)
  return rows, spread, starts


def _rows_of(points: Points) -> tuple[Rows, Array]:
  """Returns the rows of finished runs by run and D, and the centers of logs."""
  done = points.take(~points.censored)
  if not len(done.y):
    raise SpecError(
      "all runs collapsed, so there is no curve to forecast; count them with "
      "`bigscale scaling survival`"
    )
  logs = np.log([done.variables["x"], done.variables["x2"], done.y])
  center = logs.mean(1)
  order = np.lexsort((logs[1], done.group))
  n, d, y = (logs - center[:, None])[:, order]
  _, place = np.unique(np.round([n, d], _DIGITS), axis=1, return_inverse=True)
  return Rows(n, d, y, done.group[order], place.ravel()), center


def _starts(priors: tuple[Array, Array], rng: np.random.Generator) -> Array:
  """Returns each form's starts, [F, S, P]; the first is the prior mean."""
  mean, deviation = priors
  z = rng.standard_normal((len(mean), _STARTS, forms.COUNT))
  z = np.clip(z, -1.2, 1.2)
  z[:, 0] = 0
  return mean[:, None] + deviation[:, None] * z


def _samples(
  fitted: Fitted, asked: Array, mean_of: int, rng: np.random.Generator
) -> Array:
  """Draws centered log y at the places asked for, [samples, places]."""
  form = rng.choice(len(fitted.weights), _SAMPLES, p=fitted.weights)
  theta = fitted.theta[form, rng.integers(_DRAWS, size=_SAMPLES)]
  f = forms.log_y(theta[:, None], *asked)[:, 0]
  every = np.ones(len(fitted.rows.n), bool)
  _, far = backtest.beyond(*asked, fitted.rows, every)
  f = f + backtest.draw_misfits(fitted.misfits, _SAMPLES, rng) @ far
  if mean_of:
    spread, degrees = fitted.noise.residual, fitted.noise.degrees
    size = np.sqrt(degrees / rng.chisquare(degrees, (_SAMPLES, 1)))
    # One residual for all places: a forecast does not depend on the others.
    residual = rng.choice(spread, (_SAMPLES, 1))
    f = f + size * residual / math.sqrt(mean_of)
  return f


def _tested(fitted: Fitted) -> Array:
  """Returns the largest log distances of held-out rows along N and D, [2]."""
  rows = fitted.rows
  return np.max(
    [
      backtest.beyond(rows.n[s.forecast], rows.d[s.forecast], rows, s.fitted)[
        0
      ].max(1)
      for s in fitted.sets
    ],
    axis=0,
  )


def _warnings(
  fitted: Fitted, points: Points, asked: Array, tested: Array
) -> list[str]:
  """Returns what a reader should know before quoting a forecast."""
  rows, found = fitted.rows, []
  every = np.ones(len(rows.n), bool)
  far = backtest.beyond(*asked, rows, every)[0].max(1)
  for name, values, ask, seen in zip(
    ("x", "x2"), (rows.n, rows.d), far, tested, strict=True
  ):
    count = len(np.unique(np.round(values, _DIGITS)))
    if count < 3:
      found.append(
        f"{name} has only {count} values, so the priors decide along it"
      )
    if ask > seen + 0.1:
      found.append(
        f"{name} is asked for {math.exp(ask):.3g} times beyond the runs, but "
        f"held-out runs lay at most {math.exp(seen):.3g} times beyond: no "
        "check reaches that far"
      )
  errors = np.array([one.error for one in fitted.checked])
  if len(errors) > 2 and abs(np.sign(errors).sum()) == len(errors):
    found.append(
      f"all {len(errors)} kinds of held-out rows lay "
      f"{'above' if errors[0] > 0 else 'below'} their forecasts, by "
      f"{np.abs(errors).mean():.0%} on average: expect an error of the same "
      "sign"
    )
  if fitted.strain > 2.5:
    found.append("the likeliest form lies at the edge of its prior")
  sizes = np.unique(rows.n)
  likeliest = fitted.theta[fitted.weights.argmax()]
  for compute in asked.sum(0):
    curve = forms.log_y(likeliest[:, None], sizes, compute - sizes)[:, 0]
    if curve.mean(0).argmin() in (0, len(sizes) - 1):
      found.append(
        "at the compute asked for, the best of the sizes that were run is the "
        "smallest or the largest one"
      )
      break
  lost = int(points.censored.sum())
  if lost:
    found.append(
      f"{lost} rows of collapsed runs are left out: the forecast is of runs "
      "that do not collapse"
    )
  return found


def as_text(found: Mapping[str, Any]) -> str:
  """Returns the record of `predict` as text."""
  names = found["names"]
  what = {0: "the curve", 1: "a new run"}.get(
    found["mean_of"], f"the mean of {found['mean_of']} new runs"
  )
  lines = [f"{names['y']} of {what}:", ""]
  lines.append(
    f"{names['x']:>14} {names['x2']:>14} {'median':>10}  "
    f"{'50% interval':22}  90% interval"
  )
  for one in found["forecasts"]:
    low50, high50 = one["interval50"]
    low90, high90 = one["interval90"]
    fifty, ninety = (
      f"{low50:.4g} to {high50:.4g}",
      f"{low90:.4g} to {high90:.4g}",
    )
    mark = "" if one["tested"] else "  (untested: see below)"
    lines.append(
      f"{one['x']:>14.6g} {one['x2']:>14.6g} {one['median']:>10.4g}  "
      f"{fifty:22}  {ninety}{mark}"
    )
  lines += [
    "",
    "forecasts of held-out runs: seen over forecast, share in the 90% interval",
  ]
  lines += [
    f"  {one['name']:20} {math.exp(one['error']):.3f}  {one['inside90']:4.0%} "
    f"of {one['rows']} rows"
    for one in found["held_out"]
  ]
  strongest = sorted(found["forms"].items(), key=lambda item: -item[1])[:4]
  listed = ", ".join(f"{name} {weight:.0%}" for name, weight in strongest)
  spread = found["spread"]
  lines += [
    "",
    f"forms: {listed}",
    f"spread: {spread['run']:.1%} between runs, {spread['row']:.1%} within "
    f"them, correlation of neighbors {spread['correlation']:.2f}",
    f"{found['rows']} rows; {len(found['excluded'])} excluded",
    *(f"warning: {text}" for text in found["warnings"]),
  ]
  return "\n".join(lines)
