"""From a selection of runs to a law with its errors: what is recorded."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling import bootstrap, intervals, laws
from bigscale.scaling.compare import compare, forms
from bigscale.scaling.fit import Fit, Loss, fit
from bigscale.scaling.laws import Points, Selection
from bigscale.spec import require

# Percentile intervals of fewer clusters are narrower than they say.
_FEW_CLUSTERS = 10
# Logs of two variables so close to a line do not tell their exponents apart.
_COLLINEAR = 0.98
# Streams of random numbers of one seed.
_PARAMETERS, _HELDOUT = 0, 1


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to fit.

  Attributes:
    floor: E, as a measured real-vs-real FID; None to fit it, 0 for none.
    resamples: of the bootstrap.
    seed: of the bootstrap.
    loss: to minimise.
  """

  floor: float | None = None
  resamples: int = 4000
  seed: int = 0
  loss: Loss = dataclasses.field(default_factory=Loss)

  def __post_init__(self) -> None:
    require(
      self.floor is None or (math.isfinite(self.floor) and self.floor >= 0),
      f"--floor={self.floor} must be free, none or a number of at least 0",
    )
    require(
      40 <= self.resamples <= 1_000_000,
      f"--resamples={self.resamples} must be from 40, for a tail of 2.5%, to a "
      "million; 4000 is usual",
    )
    require(self.seed >= 0, f"--seed={self.seed} must not be negative")


class Study(NamedTuple):
  """A law fitted to runs, and again to resamples of them."""

  selection: Selection
  settings: Settings
  fitted: Fit
  drawn: bootstrap.Resampled


def study(selection: Selection, settings: Settings) -> Study:
  """Fits a law to runs.

  Args:
    selection: of a runs table.
    settings: how.

  Raises:
    SpecError: the runs cannot tell the law's parameters.
  """
  points = selection.points
  terms = tuple(name for name in ("x", "x2") if name in points.variables)
  law = laws.Law(terms, settings.floor)
  if selection.grouped is not None:
    groups = int(points.group.max()) + 1
    require(
      groups >= bootstrap.LEAST_CLUSTERS,
      f"--group={selection.grouped} has {groups} groups, and the bootstrap "
      f"draws groups: add runs until there are {bootstrap.LEAST_CLUSTERS}",
    )
  fitted = fit(law, points, settings.loss)
  drawn = bootstrap.resample(
    fitted, points, settings.resamples, (settings.seed, _PARAMETERS)
  )
  return Study(selection, settings, fitted, drawn)


def record(made: Study) -> dict[str, Any]:
  """Says how far a law can be believed, and why.

  Returns:
    What `bigscale scaling fit --json` prints; see docs/reference/laws.md.
  """
  selection, settings, fitted, drawn = made
  points = selection.points
  found = {
    "law": f"y = {fitted.law.formula}",
    "names": dict(selection.names),
    "parameters": bootstrap.parameters(fitted, drawn),
    "split": _split(fitted, drawn, selection),
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
    "method": _method(fitted, drawn, selection, settings),
    "protocol": dict(selection.protocol),
  }
  found["warnings"] = _warnings(found, fitted, drawn, selection)
  return _finite(found)


def _finite(value: Any) -> Any:
  """The same with null for numbers that JSON does not have."""
  if isinstance(value, dict):
    return {key: _finite(entry) for key, entry in value.items()}
  if isinstance(value, list):
    return [_finite(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _split(
  fitted: Fit, drawn: bootstrap.Resampled, selection: Selection
) -> dict[str, Any] | None:
  """How compute is best shared out: x = coefficient C^p, x2 the rest."""
  if len(fitted.law.variables) < 2:
    return None
  factor = selection.compute_factor or 1.0

  def shares(values: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    alpha, beta = values["alpha"], values["beta"]
    with np.errstate(all="ignore"):
      p = beta / (alpha + beta)
      ratio = alpha * values["A"] / (beta * values["B"])
      found = p, ratio ** (1 / (alpha + beta)) * factor**-p, alpha * p
      # What does not fall has no best.
      return tuple(np.where((alpha > 0) & (beta > 0), x, np.nan) for x in found)

  law, design = fitted.law, fitted.design
  best, others = (
    (
      shares(laws.values_of(law, design.centre, theta)),
      _sides_of_split(intervals.sides_of(law, design, theta)),
    )
    for theta in (fitted.theta[None], drawn.theta)
  )
  p, coefficient, exponent = (
    intervals.estimate(
      float(value[0]), other, side, float(at.of[0]), drawn.unsupported
    )
    for value, at, other, side in zip(*best, *others, strict=True)
  )
  names = selection.names
  return {
    "p": p,
    "coefficient": coefficient,
    # Along the best split both terms fall as compute to the power of this.
    "exponent": exponent,
    "assumes": f"compute = {factor:g} x x2 with x = {names['x']}, "
    f"x2 = {names['x2']}; best x = coefficient compute^p, x2 the rest",
  }


def _sides_of_split(
  sides: dict[str, intervals.Sides],
) -> tuple[intervals.Sides, ...]:
  """Where p, its coefficient and the exponent of compute lie."""
  alpha, beta = sides["alpha"].of, sides["beta"].of
  name = "that of alpha or beta"
  # A steeper alpha makes p smaller, a steeper beta larger; both together, or
  # one that grows, leave it open. The exponent rises with either.
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
  """Each row of a collapsed run: its bound, and whether the law is above."""
  predicted = laws.predict(fitted.design, fitted.theta[None]).log_y[0]
  predicted = np.exp(predicted + fitted.design.centre.log_y)
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
  drawn: bootstrap.Resampled,
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
      "unit": selection.grouped or "row",
      "clusters": drawn.clusters,
      "resamples": drawn.drawn,
      "used": len(drawn.theta),
      "unconverged": drawn.unconverged,
      "delta_of_log_y": drawn.delta,
      "intervals": "percentile",
      "seed": settings.seed,
      "seconds": round(drawn.seconds, 2),
    },
  }


def _warnings(
  found: dict[str, Any],
  fitted: Fit,
  drawn: bootstrap.Resampled,
  selection: Selection,
) -> list[str]:
  said = list(selection.notes)
  points, values = selection.points, fitted.values
  seen = points.y[~points.censored]
  if not fitted.converged or fitted.agreeing < 2:
    said.append(
      f"{fitted.agreeing} of {fitted.starts} starts end at the best law found: "
      "another may be better"
    )
  if selection.grouped is None:
    said.append(
      "without --group each row counts as a run of its own; where several are "
      "of one run, intervals are too narrow"
    )
  unit = "rows" if selection.grouped is None else "runs"
  if drawn.unsupported:
    said.append(f"no intervals: {drawn.unsupported}")
  elif drawn.clusters < _FEW_CLUSTERS:
    said.append(
      f"{drawn.clusters} {unit} are few: intervals are narrower than they say"
    )
  if len(drawn.theta) < 0.95 * drawn.drawn:
    said.append(
      f"{drawn.drawn - len(drawn.theta)} of {drawn.drawn} resamples had too "
      "few different points and were left out"
    )
  if drawn.unconverged > 0.01:
    said.append(f"{drawn.unconverged:.1%} of resamples did not converge")
  said += _about_values(found["parameters"], values, seen)
  if len(fitted.law.variables) == 2:
    logs = fitted.design.z_kn[:, ~points.censored]
    if abs(np.corrcoef(logs)[0, 1]) > _COLLINEAR:
      said.append(
        "x and x2 rise together: their exponents can hardly be told apart"
      )
  return said


def _about_values(
  parameters: dict[str, Any], values: dict[str, float], seen: np.ndarray
) -> list[str]:
  said = []
  floor = parameters["E"]
  if floor.get("pinned"):
    below = int((seen <= floor["value"]).sum())
    if below:
      said.append(
        f"the pinned floor {floor['value']:g} is not below {below} of the "
        "points"
      )
  elif floor.get("is_bound"):
    said.append(
      "E lies at its bound, 0: these runs show no floor; one below all of them "
      "may exist"
    )
  elif floor["interval95"] and floor["interval95"][0] < 1e-3 * seen.min():
    said.append("the floor's interval reaches zero: there may be none")
  for name in (key for key in ("alpha", "beta") if key in values):
    entry = parameters[name]
    low = (entry["interval95"] or [None])[0]
    if entry.get("is_bound"):
      said.append(
        f"{name} lies at the bound of the search, {entry['value']:g}, and is "
        "not measured: vary its variable more, or at other places"
      )
    elif entry["value"] is None:
      said.append(f"the term of {name} comes to nothing: {name} is unknown")
    elif values[name] <= 0:
      said.append(f"{name} is not positive: y does not fall with its variable")
    elif low is not None and low <= 0:
      said.append(f"{name}'s interval reaches zero: no fall is shown")
  return said
