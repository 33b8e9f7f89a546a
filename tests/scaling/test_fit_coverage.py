"""Tests the coverage of intervals on simulated tables of known laws."""

import numpy as np
import pytest

from bigscale.scaling import bootstrap, laws
from bigscale.scaling.fit import Loss, fit
from bigscale.scaling.laws import Points

TRIALS, RESAMPLES = 200, 60


def coverage(law, variables, truth, noise):
  """Share of trials whose 95% interval contains the true parameter."""
  log_terms = [
    np.log(truth[c]) - truth[e] * np.log(variables[name])
    for c, e, name in zip("AB", ("alpha", "beta"), law.variables, strict=False)
  ]
  exact = truth["E"] + np.exp(log_terms).sum(axis=0)
  rows = np.arange(len(exact))
  inside = {name: 0 for name in truth if law.floor is None or name != "E"}
  for trial in range(TRIALS):
    rng = np.random.default_rng([5, trial])
    y = exact * np.exp(noise * rng.standard_normal(len(exact)))
    points = Points(variables, y, np.zeros(len(rows), bool), rows, rows)
    found = fit(law, points, Loss())
    resampled = bootstrap.resample(found, points, RESAMPLES, (0, trial))
    estimated = bootstrap.parameters(found, resampled)
    for name in inside:
      low, high = estimated[name]["interval95"] or (np.inf, -np.inf)
      # One end of a one-sided interval is None.
      above = low is None or low <= truth[name]
      inside[name] += above and (high is None or truth[name] <= high)
  return {name: count / TRIALS for name, count in inside.items()}


def assert_honest(found):
  assert all(0.90 <= share <= 0.99 for share in found.values()), found


@pytest.mark.slow
def test_intervals_of_a_law_with_floor():
  x = np.geomspace(1e15, 1e19, 24)
  truth = {"E": 3.0, "A": 3e5, "alpha": 0.3}
  found = coverage(laws.Law(("x",)), {"x": x, "C": x}, truth, 0.03)
  assert_honest(found)


@pytest.mark.slow
@pytest.mark.parametrize("floor", [0.0, 3.0])
def test_intervals_of_a_law_with_known_floor(floor):
  x = np.geomspace(1e15, 1e19, 16)
  truth = {"E": floor, "A": 3e5, "alpha": 0.3}
  found = coverage(laws.Law(("x",), floor), {"x": x, "C": x}, truth, 0.05)
  assert_honest(found)


@pytest.mark.slow
def test_intervals_of_a_law_of_two_variables():
  side = np.geomspace(1e5, 1e8, 6)
  x, x2 = (grid.ravel() for grid in np.meshgrid(side, side))
  truth = {"E": 2.0, "A": 400.0, "alpha": 0.35, "B": 300.0, "beta": 0.3}
  variables = {"x": x, "x2": x2, "C": x * x2}
  assert_honest(coverage(laws.Law(("x", "x2")), variables, truth, 0.02))
