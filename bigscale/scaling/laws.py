"""Defines the forms of scaling law, and points in the solver's coordinates.

A law is y = E + A x^-alpha, with an optional second term B x2^-beta. The solver
searches over log A, log B, the exponents and E. E is not logarithmic, so that
the search can reach a floor of exactly zero and leave it again. The logs of the
variables are centered and y is divided by its geometric mean; otherwise A and
alpha would be nearly collinear.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Values = dict[str, np.ndarray]
# Names for the first and the second term.
COEFFICIENTS, EXPONENTS = ("A", "B"), ("alpha", "beta")
# Largest absolute exponent that the solver tries. With a larger one, A x^-alpha
# is close to a step function.
LARGEST_EXPONENT = 8.0


class Points(NamedTuple):
  """Runs, or checkpoints of runs.

  Attributes:
    variables: [n] float64 each, positive: `x`, `x2` if the law has two
      variables, and `C`, compute up to a constant factor.
    y: [n] float64, positive: the falling quantity, such as FID.
    censored: [n] bool, whether the run collapsed. Its y, from before the
      collapse, is an upper bound of what it would have reached.
    group: [n] int, the bootstrap cluster of each point, from 0.
    rows: [n] int, row numbers in the table, from 1.
  """

  variables: Mapping[str, np.ndarray]
  y: np.ndarray
  censored: np.ndarray
  group: np.ndarray
  rows: np.ndarray

  def take(self, chosen: np.ndarray) -> "Points":
    """Returns the points of an index or mask, with groups renumbered from 0."""
    return Points(
      {name: values[chosen] for name, values in self.variables.items()},
      self.y[chosen],
      self.censored[chosen],
      np.unique(self.group[chosen], return_inverse=True)[1],
      self.rows[chosen],
    )


@dataclasses.dataclass(frozen=True)
class Law:
  """A sum of power laws over a floor.

  Attributes:
    variables: variable of each term, one or two names in `Points.variables`.
    floor: value of E; None if E is fitted, 0 for a law without a floor.
  """

  variables: tuple[str, ...]
  floor: float | None = None

  @property
  def size(self) -> int:
    """Number of fitted parameters, P."""
    return 2 * len(self.variables) + (self.floor is None)

  @property
  def formula(self) -> str:
    """Right-hand side of the law as text."""
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
  """Subtracted means: the mean log of each variable, [K], and of y."""

  log_x: np.ndarray
  log_y: float


class Design(NamedTuple):
  """Points in centered coordinates.

  Attributes:
    z_kn: [K, n] centered logs of the law's variables.
    log_y: [n] centered logs of y.
    censored: [n] bool, whether y is an upper bound.
    floor: E in units of the geometric mean of y; None if E is fitted.
    center: means that were subtracted.
  """

  z_kn: np.ndarray
  log_y: np.ndarray
  censored: np.ndarray
  floor: float | None
  center: Center


class Prediction(NamedTuple):
  """Predicted log y, with the shares of the terms.

  Attributes:
    log_y: [R, n] predictions in the centered units of the design.
    shares: [R, K, n] share of each term in y.
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
  """Returns points in centered coordinates.

  Args:
    law: law to fit or predict with.
    variables: [n] each, positive.
    y: [n], positive.
    censored: [n] bool, whether y is an upper bound.
    center: means to subtract; to predict other points, the means of the points
      that the law was fitted to. None computes them from these points.
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
  """Returns the derivatives [R, P, n] of log y by the parameters."""
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
  """Returns the parameters E, A, alpha, ... of the formula, [R] each.

  Args:
    law: fitted law.
    center: center of the points that the law was fitted to.
    theta: [R, P] parameters in the solver's coordinates.
  """
  floor = law.floor
  values = {
    "E": np.full(len(theta), floor)
    if floor is not None
    else theta[:, -1] * np.exp(center.log_y)
  }
  for k in range(len(law.variables)):
    log_coefficient, exponent = theta[:, 2 * k], theta[:, 2 * k + 1]
    # For an extreme exponent, the coefficient may overflow.
    with np.errstate(over="ignore"):
      values[COEFFICIENTS[k]] = np.exp(
        log_coefficient + exponent * center.log_x[k] + center.log_y
      )
    values[EXPONENTS[k]] = exponent
  return values
