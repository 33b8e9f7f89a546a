"""Selects the best setting at each place, such as the best learning rate.

A place is a pair of x and x2; a setting is a combination of the tuned columns.
A law of the best settings is the lower envelope of a law of all runs. Because
the best setting of noisy runs is itself uncertain, every bootstrap resample
selects it anew.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.scaling.laws import Points
from bigscale.scaling.rows import TableRow, meaning, number
from bigscale.spec import require


class Tuning(NamedTuple):
  """Settings that were tried at each place.

  Attributes:
    columns: columns that were tuned.
    points: rows of all settings.
    setting: [n] number of the setting of each row. Settings of different places
      have different numbers, in the order of places.
    first: [places] number of the first setting of each place.
    values: values of the columns, by setting.
    fallen: [settings] bool, whether a run collapsed while others at the place
      did not. Such a setting is never selected.
  """

  columns: tuple[str, ...]
  points: Points
  setting: np.ndarray
  first: np.ndarray
  values: list[tuple[float | str, ...]]
  fallen: np.ndarray

  def select(self, weights: np.ndarray) -> np.ndarray:
    """Sets the weights of all but the best setting of each place to zero.

    The best setting has the smallest weighted mean of log y.

    Args:
      weights: [R, n] weights of the rows.
    """
    count = len(self.values)
    of = np.zeros((len(self.setting), count))
    of[np.arange(len(of)), self.setting] = 1
    total = weights @ of
    with np.errstate(invalid="ignore"):
      mean = ((weights * np.log(self.points.y)) @ of) / total
    mean = np.where((total > 0) & ~self.fallen, mean, np.inf)
    lowest = np.minimum.reduceat(mean, self.first, axis=1)
    best = np.isfinite(mean) & (mean <= lowest[:, self._place()])
    return weights * best[:, self.setting]

  def best(self) -> np.ndarray:
    """Returns which rows belong to the best setting of their place, [n]."""
    return self.select(np.ones((1, len(self.setting))))[0] > 0

  def record(self) -> dict[str, Any]:
    """Returns the numbers of places, settings, and optima at an edge."""
    place, best = self._place(), np.unique(self.setting[self.best()])
    edges = {}
    for index, name in enumerate(self.columns):
      found = dict.fromkeys(("smallest", "largest", "single", "inside"), 0)
      for one in best:
        tried = [
          values[index]
          for values, at in zip(self.values, place, strict=True)
          if at == place[one]
        ]
        found[_position(self.values[one][index], tried)] += 1
      edges[name] = found
    runs = np.unique(np.stack([self.setting, self.points.group]), axis=1)[0]
    return {
      "places": len(self.first),
      "settings": len(self.values),
      "single_runs": int((np.bincount(runs) == 1).sum()),
      "rows_of_other_settings": int((~self.best()).sum()),
      "optimum": edges,
    }

  def warnings(self) -> list[str]:
    """Returns what limits the selection of the best settings."""
    found = self.record()
    warnings = []
    for name, at in found["optimum"].items():
      for edge in ("smallest", "largest"):
        if at[edge]:
          warnings.append(
            f"the best {name} is the {edge} that was tried at {at[edge]} of "
            f"{found['places']} places; a better one may lie beyond"
          )
      if at["single"]:
        warnings.append(
          f"only one {name} was tried at {at['single']} of {found['places']} "
          "places, so it is not tuned there"
        )
    if found["single_runs"]:
      warnings.append(
        f"{found['single_runs']} of {found['settings']} settings have one run, "
        "so the best of them is partly luck and y is too low; repeat the best "
        "settings with other seeds"
      )
    return warnings

  def _place(self) -> np.ndarray:
    """Returns the number of the place of each setting."""
    return np.searchsorted(self.first, np.arange(len(self.values)), "right") - 1


def _position(value: float | str, tried: Sequence[float | str]) -> str:
  if len(set(tried)) == 1:
    return "single"
  if value == min(tried):
    return "smallest"
  return "largest" if value == max(tried) else "inside"


def tuning(
  points: Points, rows: Sequence[TableRow], columns: tuple[str, ...]
) -> Tuning:
  """Returns the settings of rows.

  Args:
    points: the rows as points.
    rows: the rows of the table, in the same order.
    columns: columns that were tuned.

  Raises:
    SpecError: a cell of these columns is not a number.
  """
  names = [name for name in ("x", "x2") if name in points.variables]
  at = np.stack([points.variables[name] for name in names], axis=1).tolist()
  keys = []
  for row, where in zip(rows, at, strict=True):
    for name in columns:
      require(
        number(row.cells[name]) is not None,
        f"{row.place}, column {name!r}: {row.cells[name]!r} is not a number, "
        "but --best_over compares numbers; correct it, or exclude the row with "
        "--where",
      )
    values = tuple(meaning(row.cells[name]) for name in columns)
    keys.append((tuple(where), values))
  settings = sorted(set(keys))
  order = {key: index for index, key in enumerate(settings)}
  setting = np.array([order[key] for key in keys])
  places = [where for where, _ in settings]
  first = [
    n for n in range(len(places)) if n == 0 or places[n] != places[n - 1]
  ]
  collapsed = np.bincount(setting, points.censored, len(settings)) > 0
  whole = np.minimum.reduceat(collapsed, np.array(first))
  by_place = np.searchsorted(first, np.arange(len(settings)), "right") - 1
  return Tuning(
    columns,
    points,
    setting,
    np.array(first),
    [values for _, values in settings],
    collapsed & ~whole[by_place],
  )
