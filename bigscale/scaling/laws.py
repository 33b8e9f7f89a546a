"""The runs a law is fitted to, and the forms of law, in the solver's numbers.

A law is y = E + A x^-alpha, or with a second term B x2^-beta. Its parameters
are searched as logarithms of A and B, exponents as they are, and E as it is,
so that a floor of exactly zero can be reached and left again. Variables are
centerd in logs and y is measured in its geometric mean: without that, A and
alpha would be all but the same direction.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Values = dict[str, np.ndarray]
# Of the first and the second term.
COEFFICIENTS, EXPONENTS = ("A", "B"), ("alpha", "beta")
# Beyond, A x^-alpha is a wall and no law: the solver goes no further.
LARGEST_EXPONENT = 8.0


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


@dataclasses.dataclass(frozen=True)
class Law:
  """A sum of power laws over a floor.

  Attributes:
    variables: what the terms fall with, one or two names of `Points`.
    floor: E; None where it is fitted, 0 for none.
  """

  variables: tuple[str, ...]
  floor: float | None = None

  @property
  def size(self) -> int:
    """Number of fitted parameters, P."""
    return 2 * len(self.variables) + (self.floor is None)

  @property
  def formula(self) -> str:
    """As it would be written down."""
    terms = [
      f"{coefficient} {variable}^-{exponent}"
      for coefficient, exponent, variable in zip(
        COEFFICIENTS, EXPONENTS, self.variables, strict=False
      )
    ]
    if self.floor is None:
      terms.insert(0, "E")
    elif self.floor:
      terms.insert(0, f"{self.floor:g}")
    return " + ".join(terms)


class Center(NamedTuple):
  """What was subtracted: mean log of each variable [K], and of y."""

  log_x: np.ndarray
  log_y: float


class Design(NamedTuple):
  """Points as a law sees them.

  Attributes:
    z_kn: [K, n] centerd logs of the law's variables.
    log_y: [n], centerd.
    censored: [n] bool: y is an upper bound.
    floor: E in units of the geometric mean of y; None where it is fitted.
    center: what was subtracted.
  """

  z_kn: np.ndarray
  log_y: np.ndarray
  censored: np.ndarray
  floor: float | None
  center: Center


class Prediction(NamedTuple):
  """Logs of y and how they answer to the parameters.

  Attributes:
    log_y: [R, n], in the centerd units of the design.
    shares: [R, K, n], of each term in y.
  """

  log_y: np.ndarray
  shares: np.ndarray


def design_of(
  law: Law,
  variables: Mapping[str, np.ndarray],
  y: np.ndarray,
  censored: np.ndarray,
  center: Center | None = None,
) -> Design:
  """Centers points.

  Args:
    law: to fit.
    variables: [n] each, positive.
    y: [n], positive.
    censored: [n] bool.
    center: of the points a law was fitted to, to predict others; their own
      where None.
  """
  log_x = np.log([variables[name] for name in law.variables])
  log_y = np.log(y)
  if center is None:
    center = Center(log_x.mean(axis=1), float(log_y.mean()))
  floor = law.floor
  if floor is not None:
    floor = floor / np.exp(center.log_y)
  return Design(
    log_x - center.log_x[:, None],
    log_y - center.log_y,
    censored,
    floor,
    center,
  )


def predict(design: Design, theta: np.ndarray) -> Prediction:
  """Predicts log y for R sets of parameters, theta [R, P]."""
  terms = len(design.z_kn)
  log_terms = (
    theta[:, 0 : 2 * terms : 2, None]
    - theta[:, 1 : 2 * terms : 2, None] * design.z_kn
  )
  floor = np.full(len(theta), design.floor)
  if design.floor is None:
    floor = theta[:, -1]
  log_floor = np.log(np.maximum(floor, 1e-300))[:, None]
  largest = np.maximum(log_terms.max(axis=1), log_floor)[:, None]
  scaled = np.exp(log_terms - largest)
  total = scaled.sum(axis=1) + floor[:, None] * np.exp(-largest[:, 0])
  return Prediction(largest[:, 0] + np.log(total), scaled / total[:, None])


def jacobian(design: Design, found: Prediction) -> np.ndarray:
  """Derivatives [R, P, n] of log y by the parameters."""
  terms = len(design.z_kn)
  rows, _, points = found.shares.shape
  size = 2 * terms + (design.floor is None)
  slopes = np.empty((rows, size, points))
  slopes[:, 0 : 2 * terms : 2] = found.shares
  slopes[:, 1 : 2 * terms : 2] = -found.shares * design.z_kn
  if design.floor is None:
    slopes[:, -1] = np.exp(-found.log_y)
  return slopes


def values_of(law: Law, center: Center, theta: np.ndarray) -> Values:
  """Parameters as they are written down, [R] each, E first.

  Args:
    law: that was fitted.
    center: of the points it was fitted to.
    theta: [R, P].
  """
  floor = law.floor
  values = {
    "E": np.full(len(theta), floor)
    if floor is not None
    else theta[:, -1] * np.exp(center.log_y)
  }
  for k in range(len(law.variables)):
    log_coefficient, exponent = theta[:, 2 * k], theta[:, 2 * k + 1]
    # Of an absurd exponent the coefficient may not be a number.
    with np.errstate(over="ignore"):
      values[COEFFICIENTS[k]] = np.exp(
        log_coefficient + exponent * center.log_x[k] + center.log_y
      )
    values[EXPONENTS[k]] = exponent
  return values
