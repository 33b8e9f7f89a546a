"""The runs a law is fitted to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Points(NamedTuple):
  """Runs, or checkpoints of runs.

  Attributes:
    variables: [n] float64 each, positive: `x`, `x2` where the law has two
      variables, and `C`, compute up to a constant factor.
    y: [n] float64, positive: what falls, as FID.
    censored: [n] bool. The run collapsed: y, from before, is an upper bound of
      what it would have reached.
    group: [n] int, the bootstrap's cluster of each, from 0.
    rows: [n] int, rows of the table, from 1.
  """

  variables: Mapping[str, np.ndarray]
  y: np.ndarray
  censored: np.ndarray
  group: np.ndarray
  rows: np.ndarray

  def take(self, chosen: np.ndarray) -> "Points":
    """Those of an index or mask; groups are numbered anew."""
    return Points(
      {name: values[chosen] for name, values in self.variables.items()},
      self.y[chosen],
      self.censored[chosen],
      np.unique(self.group[chosen], return_inverse=True)[1],
      self.rows[chosen],
    )


class Selection(NamedTuple):
  """What was taken from a table, and what was not.

  Attributes:
    points: to fit.
    names: of the variables and of y, as columns or formulas of columns.
    excluded: {"row", "line", "y", "reason"} of rows left out.
    filtered: number of rows that `where` did not ask for.
    grouped: the column of clusters; None where each row is its own.
    compute_factor: k where x2 is compute / (k x), else None.
    protocol: columns that must not differ between runs, with their value.
    notes: what a reader should know of the rows, a sentence each.
  """

  points: Points
  names: Mapping[str, str]
  excluded: list[dict[str, Any]]
  filtered: int
  grouped: str | None
  compute_factor: float | None
  protocol: Mapping[str, str]
  notes: tuple[str, ...] = ()

  @property
  def runs(self) -> int | None:
    """Trained runs that the points are of; None where no column says it."""
    if self.grouped is None:
      return None
    return int(self.points.group.max()) + 1
