"""The rows that a law is fitted to, and what is known about them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bigscale.scaling.laws import Points
from bigscale.scaling.tuning import Tuning


class Selection(NamedTuple):
  """Rows selected from a table, and the rows left out.

  Attributes:
    points: points to fit.
    names: columns, or formulas of columns, of the variables and of y.
    excluded: {"row", "line", "y", "reason"} of each excluded row.
    filtered: number of rows that do not match `where`.
    grouped: column of clusters; None if each row is its own cluster.
    compute_factor: k if x2 is compute / (k x), otherwise None.
    protocol: columns that must be equal for all runs, with their value.
    notes: messages about the rows, for the user.
    tuned: settings that the best were selected from; None if none were tuned.
  """

  points: Points
  names: Mapping[str, str]
  excluded: list[dict[str, Any]]
  filtered: int
  grouped: str | None
  compute_factor: float | None
  protocol: Mapping[str, str]
  notes: tuple[str, ...] = ()
  tuned: Tuning | None = None

  @property
  def runs(self) -> int | None:
    """Number of runs that the points come from; None if not grouped."""
    if self.grouped is None:
      return None
    return int(self.points.group.max()) + 1
