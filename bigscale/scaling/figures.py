"""Plots a fitted law over its runs."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bigscale.scaling import laws
from bigscale.scaling.analysis import Study
from bigscale.scaling.intervals import sides_of
from bigscale.spec import SpecError, require

_ENDINGS = (".png", ".svg", ".pdf")
# Maximum number of lines per panel. With more levels of the other variable,
# lines are spaced evenly in its logarithm.
_MOST_LINES = 6
# Points per line.
_STEPS = 100


def save(made: Study, out: pathlib.Path) -> None:
  """Writes a plot of a law.

  Args:
    made: fitted law.
    out: path of the file, which ends with .png, .svg or .pdf.

  Raises:
    SpecError: the path has another ending, or the file cannot be written.
  """
  require(
    out.suffix in _ENDINGS,
    f"--out={out} must end with {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}",
  )
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(made).savefig(out, dpi=150)
  except OSError as error:
    raise SpecError(
      f"--out={out} cannot be written ({error.strerror}); choose another path"
    ) from None


def draw(made: Study) -> Figure:
  """Plots rows, law, 95% band and floor, and residuals, by variable of a law.

  For a law of two variables, each panel has one colored line per level of the
  other variable. Rows of collapsed runs are hollow triangles that point down,
  since they are upper bounds. The band is omitted if no interval can be given.
  Below, residuals of log y show where the runs do not follow the law.
  """
  variables = made.fitted.law.variables
  figure = Figure(figsize=(5.4 * len(variables), 5.6), layout="constrained")
  panels, below = figure.subplots(
    2, len(variables), squeeze=False, sharex="col", sharey="row",
    height_ratios=(3, 1),
  )  # fmt: skip
  for axes, under, name in zip(panels, below, variables, strict=True):
    other = next((one for one in variables if one != name), None)
    _draw_panel(axes, made, name, other)
    _draw_residuals(under, made, name, other)
    under.set_xlabel(made.selection.names[name])
    if other:
      axes.legend(title=made.selection.names[other], fontsize=7)
  panels[0].set_ylabel(made.selection.names["y"])
  below[0].set_ylabel("log y - law")
  figure.suptitle(_title(made), fontsize=9)
  return figure


def _title(made: Study) -> str:
  """Returns a title with the number of rows and the parameters at a bound."""
  rows, runs = len(made.selection.points.y), made.selection.runs
  title = f"{rows} rows" + ("" if runs is None else f" of {runs} runs")
  fitted = made.fitted
  sides = sides_of(fitted.law, fitted.design, fitted.theta[None])
  at_bound = [name for name, at in sides.items() if at.of[0] != 0]
  return f"{title}; at a bound: {', '.join(at_bound)}" if at_bound else title


def _draw_panel(axes: Axes, made: Study, name: str, other: str | None) -> None:
  points = made.selection.points
  x = points.variables[name]
  along = np.geomspace(x.min(), x.max(), _STEPS)
  levels, belongs = _levels(points.variables[other] if other else None, len(x))
  for index, level in enumerate(levels):
    color = f"C{index}"
    fixed = {name: along} | ({other: np.full(_STEPS, level)} if other else {})
    middle, low, high = _predict(made, fixed)
    label = _short(level) if other else None
    axes.plot(along, middle, color=color, linewidth=1.2, label=label)
    if made.resampled.unsupported is None:
      axes.fill_between(along, low, high, color=color, alpha=0.15, linewidth=0)
    _scatter(axes, x, points.y, points.censored, belongs == index, color)
  floor = made.fitted.values["E"]
  if floor > 0:
    axes.axhline(floor, color="gray", linestyle=":", linewidth=1)
  axes.set_xscale("log")
  axes.set_yscale("log")


def _draw_residuals(
  axes: Axes, made: Study, name: str, other: str | None
) -> None:
  """Plots log y minus the law; a bound counts only below the law."""
  points = made.selection.points
  x = points.variables[name]
  levels, belongs = _levels(points.variables[other] if other else None, len(x))
  for index in range(len(levels)):
    _scatter(
      axes, x, -made.fitted.residual, points.censored, belongs == index,
      f"C{index}",
    )  # fmt: skip
  axes.axhline(0, color="gray", linewidth=0.8)


def _scatter(
  axes: Axes,
  x: np.ndarray,
  y: np.ndarray,
  censored: np.ndarray,
  chosen: np.ndarray,
  color: str,
) -> None:
  """Plots rows, with hollow triangles for those of collapsed runs."""
  for shown, marker, face in (
    (chosen & ~censored, "o", color),
    (chosen & censored, "v", "none"),
  ):
    axes.scatter(
      x[shown], y[shown], 14, marker=marker, facecolors=face,
      edgecolors=color, linewidths=0.8, alpha=0.8,
    )  # fmt: skip


def _short(level: float) -> str:
  return f"{level:,.0f}" if 100 <= level < 1e7 else f"{level:.3g}"


def _levels(
  values: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a variable's levels and the index of each point's closest level."""
  if values is None:
    return np.ones(1), np.zeros(count, int)
  levels = np.unique(values)
  if len(levels) > _MOST_LINES:
    levels = np.geomspace(levels[0], levels[-1], _MOST_LINES)
  distance = np.abs(np.log(values)[:, None] - np.log(levels))
  return levels, distance.argmin(axis=1)


def _predict(
  made: Study, variables: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the law along a line and its 95% bootstrap band, each [n]."""
  fitted, count = made.fitted, _STEPS
  design = laws.design_of(
    fitted.law,
    variables,
    np.ones(count),
    np.zeros(count, bool),
    fitted.design.center,
  )
  offset = fitted.design.center.log_y
  middle = laws.predict(design, fitted.theta[None]).log_y[0]
  resampled = laws.predict(design, made.resampled.theta).log_y
  low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
  return tuple(np.exp(log_y + offset) for log_y in (middle, low, high))
