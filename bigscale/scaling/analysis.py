"""Fits a law to selected runs and builds the record of the result."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import bootstrap, choices, intervals, laws
from bigscale.scaling.compare import compare, forms
from bigscale.scaling.fit import Fit, Loss, fit
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection
from bigscale.spec import require

# With fewer clusters, percentile intervals are too narrow.
_FEW_CLUSTERS = 10
# Correlation of the two variables' logs above which their exponents cannot be
# separated.
_COLLINEAR = 0.98
# Random streams derived from one seed.
_PARAMETERS, _HELDOUT, _CHOICES = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a fit.

  Attributes:
    floor: value of E, such as a measured real-vs-real FID; None to fit E, 0
      for a law without a floor.
    resamples: number of bootstrap resamples.
    seed: seed of the bootstrap.
    loss: loss to minimize.
    resample_by: what the bootstrap resamples: runs, or sizes (values of x) and
      then the runs of each size.
    choices: whether to fit other floors as well, and to judge each choice by
      forecasts of held-out runs.
  """

  floor: float | None = None
  resamples: int = 4000
  seed: int = 0
  loss: Loss = dataclasses.field(default_factory=Loss)
  resample_by: bootstrap.Level = "run"
  choices: bool = False

  def __post_init__(self) -> None:
    require(
      self.floor is None or (math.isfinite(self.floor) and self.floor >= 0),
      f"--floor={self.floor} must be free, none or a number of at least 0",
    )
    require(
      40 <= self.resamples <= 1_000_000,
      f"--resamples={self.resamples} must be between 40, which a 2.5% tail "
      "needs, and a million; 4000 is typical",
    )
    require(self.seed >= 0, f"--seed={self.seed} must be at least 0")


class Study(NamedTuple):
  """A law fitted to runs, with its fits to bootstrap resamples of the runs."""

  selection: Selection
  settings: Settings
  fitted: Fit
  resampled: bootstrap.Resampled


def study(selection: Selection, settings: Settings) -> Study:
  """Fits a law to runs.

  Args:
    selection: runs selected from a table.
    settings: settings of the fit.

  Raises:
    SpecError: the runs do not determine the law's parameters.
  """
  points = selection.points
  terms = tuple(name for name in ("x", "x2") if name in points.variables)
  law = laws.Law(terms, settings.floor)
  if selection.grouped is not None:
    groups = int(points.group.max()) + 1
    require(
      groups >= bootstrap.LEAST_CLUSTERS,
      f"--group={selection.grouped} has {groups} groups, but the bootstrap "
      f"needs at least {bootstrap.LEAST_CLUSTERS} to resample from; add runs",
    )
  fitted = fit(law, points, settings.loss)
  resampled = bootstrap.resample(
    fitted,
    points,
    settings.resamples,
    (settings.seed, _PARAMETERS),
    tuned=selection.tuned,
    level=settings.resample_by,
  )
  return Study(selection, settings, fitted, resampled)


def record(made: Study) -> dict[str, Any]:
  """Returns the law, its uncertainty and the details of the fit.

  Returns:
    The record that `bigscale scaling fit --json` prints; see
    docs/reference/laws.md.
  """
  selection, settings, fitted, resampled = made
  points = selection.points
  found = {
    "law": f"y = {fitted.law.formula}",
    "names": dict(selection.names),
    "parameters": bootstrap.parameters(fitted, resampled),
    "split": _split(fitted, resampled, selection),
    "points": len(points.y),
    "rows": len(points.y),
    "runs": selection.runs,
    "excluded": selection.excluded,
    "filtered": selection.filtered,
    "censored": _censored(fitted, points),
    "heldout": compare(
      points,
      forms(points, settings.floor),
      settings.loss,
      (settings.seed, _HELDOUT),
      grouped=selection.grouped is not None,
    ),
    "choices": _choices(made),
    "method": _method(fitted, resampled, selection, settings),
    "protocol": dict(selection.protocol),
    "tuning": selection.tuned and selection.tuned.record(),
  }
  found["warnings"] = _warnings(found, fitted, resampled, selection, settings)
  return _finite(found)


def _choices(made: Study) -> list[dict[str, Any]] | None:
  points, settings = made.selection.points, made.settings
  if made.selection.grouped is None or not choices.has_warmup(points):
    return None
  return choices.choices(
    points, settings.floor, settings.loss, judged=settings.choices
  )


def _finite(value: Any) -> Any:
  """Replaces NaN and infinity, which JSON lacks, with None."""
  if isinstance(value, dict):
    return {key: _finite(entry) for key, entry in value.items()}
  if isinstance(value, list):
    return [_finite(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _split(
  fitted: Fit, resampled: bootstrap.Resampled, selection: Selection
) -> dict[str, Any] | None:
  """Returns the best split of compute C: x = coefficient C^p, x2 the rest."""
  if len(fitted.law.variables) < 2:
    return None
  factor = selection.compute_factor or 1.0

  def shares(values: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    alpha, beta = values["alpha"], values["beta"]
    with np.errstate(all="ignore"):
      p = beta / (alpha + beta)
      ratio = alpha * values["A"] / (beta * values["B"])
      found = p, ratio ** (1 / (alpha + beta)) * factor**-p, alpha * p
      # If a term does not fall with its variable, no split is best.
      return tuple(np.where((alpha > 0) & (beta > 0), x, np.nan) for x in found)

  law, design = fitted.law, fitted.design
  best, others = (
    (
      shares(laws.values_of(law, design.center, theta)),
      _sides_of_split(intervals.sides_of(law, design, theta)),
    )
    for theta in (fitted.theta[None], resampled.theta)
  )
  p, coefficient, exponent = (
    intervals.estimate(
      float(value[0]), other, side, float(at.of[0]), resampled.unsupported
    )
    for value, at, other, side in zip(*best, *others, strict=True)
  )
  names = selection.names
  return {
    "p": p,
    "coefficient": coefficient,
    # Along the best split, both terms fall as compute^-exponent.
    "exponent": exponent,
    "assumes": f"compute = {factor:g} x x2 with x = {names['x']} and x2 = "
    f"{names['x2']}; the best x is coefficient compute^p, and x2 is the rest",
  }


def _sides_of_split(
  sides: dict[str, intervals.Sides],
) -> tuple[intervals.Sides, ...]:
  """Returns the `Sides` of p, its coefficient and the exponent of compute."""
  alpha, beta = sides["alpha"].of, sides["beta"].of
  name = "set by alpha or beta"
  # p falls with alpha and rises with beta. If both lie at a bound, or one at
  # its lower bound, the side of p is unknown. The exponent rises with either.
  p = np.where(
    (alpha < 0) | (beta < 0) | (alpha * beta != 0), np.nan, beta - alpha
  )
  either = np.where(np.isnan(p), np.nan, np.maximum(alpha, beta))
  unknown = np.where(either == 0, 0.0, np.nan)
  return (
    intervals.Sides(p, name),
    intervals.Sides(unknown, name),
    intervals.Sides(either, name),
  )


def _censored(fitted: Fit, points: Points) -> list[dict[str, Any]]:
  """Returns each collapsed run's bound and whether the law lies above it."""
  predicted = laws.predict(fitted.design, fitted.theta[None]).log_y[0]
  predicted = np.exp(predicted + fitted.design.center.log_y)
  return [
    {
      "row": int(points.rows[index]),
      "bound": float(points.y[index]),
      "predicted": float(predicted[index]),
      "counts": bool(predicted[index] > points.y[index]),
    }
    for index in np.flatnonzero(points.censored)
  ]


def _method(
  fitted: Fit,
  resampled: bootstrap.Resampled,
  selection: Selection,
  settings: Settings,
) -> dict[str, Any]:
  return {
    "loss": "sum of Huber losses of log residuals",
    "delta": settings.loss.delta,
    "delta_unit": settings.loss.unit,
    "delta_of_log_y": fitted.delta,
    "mean_abs_log_residual": fitted.scale,
    "objective": fitted.objective,
    "search": "variable projection on a grid of exponents, then damped Newton "
    "in the logs of A and B with delta lowered in stages",
    "starts": fitted.starts,
    "starts_agreeing": fitted.agreeing,
    "converged": fitted.converged,
    "floor": {None: "free", 0.0: "none"}.get(settings.floor, settings.floor),
    "bootstrap": {
      "unit": "size"
      if settings.resample_by == "size"
      else selection.grouped or "row",
      "clusters": resampled.clusters,
      "resamples": resampled.resamples,
      "used": len(resampled.theta),
      "unconverged": resampled.unconverged,
      "delta_of_log_y": resampled.delta,
      "intervals": "percentile",
      "seed": settings.seed,
      "seconds": round(resampled.seconds, 2),
    },
  }


def _warnings(
  found: dict[str, Any],
  fitted: Fit,
  resampled: bootstrap.Resampled,
  selection: Selection,
  settings: Settings,
) -> list[str]:
  warnings = list(selection.notes)
  if selection.tuned is not None:
    warnings += selection.tuned.warnings()
  points, values = selection.points, fitted.values
  seen = points.y[~points.censored]
  if not fitted.converged or fitted.agreeing < 2:
    warnings.append(
      f"only {fitted.agreeing} of {fitted.starts} starts reached the best law "
      "found, so a better one may exist"
    )
  if selection.grouped is None:
    warnings.append(
      "without --group, each row counts as a separate run; if several rows "
      "come from one run, the intervals are too narrow"
    )
  unit = "rows" if selection.grouped is None else "runs"
  if settings.resample_by == "size":
    unit = "sizes"
  if resampled.unsupported:
    warnings.append(f"no intervals: {resampled.unsupported}")
  elif resampled.clusters < _FEW_CLUSTERS:
    warnings.append(
      f"with only {resampled.clusters} {unit}, the intervals are too narrow"
    )
  total, used = resampled.resamples, len(resampled.theta)
  if used < 0.95 * total:
    warnings.append(
      f"{total - used} of {total} resamples had too few distinct points and "
      "were left out"
    )
  if resampled.unconverged > 0.01:
    warnings.append(
      f"{resampled.unconverged:.1%} of resamples did not converge"
    )
  warnings += _about_values(found["parameters"], values, seen)
  if found["choices"]:
    warnings += choices.moved(
      points, settings.floor, settings.loss, (settings.seed, _CHOICES)
    )
  if len(fitted.law.variables) == 2:
    logs = fitted.design.z_kn[:, ~points.censored]
    if abs(np.corrcoef(logs)[0, 1]) > _COLLINEAR:
      warnings.append(
        "x and x2 rise together, so the data barely separate their exponents"
      )
  return warnings


def _about_values(
  parameters: dict[str, Any], values: dict[str, float], seen: np.ndarray
) -> list[str]:
  warnings = []
  floor = parameters["E"]
  if floor.get("pinned"):
    below = int((seen <= floor["value"]).sum())
    if below:
      warnings.append(
        f"{below} of the points are at or below the pinned floor, "
        f"{floor['value']:g}"
      )
  elif floor.get("is_bound"):
    warnings.append(
      "E lies at its bound, 0: these runs show no floor, but one below all of "
      "them may exist"
    )
  elif floor["interval95"] and floor["interval95"][0] < 1e-3 * seen.min():
    warnings.append("the floor's interval reaches zero: there may be no floor")
  for name in (key for key in ("alpha", "beta") if key in values):
    entry = parameters[name]
    low = (entry["interval95"] or [None])[0]
    if entry.get("is_bound"):
      warnings.append(
        f"{name} lies at the bound of the search, {entry['value']:g}, so it is "
        "not measured; vary its variable more, or over another range"
      )
    elif entry["value"] is None:
      warnings.append(f"the term of {name} vanishes, so {name} is unknown")
    elif values[name] <= 0:
      warnings.append(
        f"{name} is not positive: y does not fall with its variable"
      )
    elif low is not None and low <= 0:
      warnings.append(
        f"{name}'s interval reaches zero: the runs do not show that y falls "
        "with its variable"
      )
  return warnings
