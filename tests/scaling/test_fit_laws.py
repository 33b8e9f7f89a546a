"""Tests of fits to data from known laws."""

import numpy as np
import pytest

from bigscale.scaling import analysis, bootstrap, compare, laws, solver
from bigscale.scaling.fit import Loss, fit
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection

FLOOR, FACTOR, EXPONENT = 3.0, 3e5, 0.3
ONE, NO_FLOOR = laws.Law(("x",)), laws.Law(("x",), 0.0)


def runs(count, noise, seed=0, floor=FLOOR, copies=1):
  """Runs of y = 3 + 3e5 x^-0.3 with `copies` equal rows each."""
  x = np.geomspace(1e15, 1e19, count)
  rng = np.random.default_rng([11, seed])
  y = (floor + FACTOR * x**-EXPONENT) * np.exp(
    noise * rng.standard_normal(count)
  )
  rows = np.arange(count * copies)
  return Points(
    {"x": np.repeat(x, copies), "C": np.repeat(x, copies)},
    np.repeat(y, copies),
    np.zeros(len(rows), bool),
    rows,
    rows + 1,
  )


def selection(points, grouped="run"):
  names = {"x": "flops", "y": "fid", "C": "flops"}
  return Selection(points, names, [], 0, grouped, None, {})


def analyze(selected, settings):
  return analysis.record(analysis.study(selected, settings))


def with_bound(points, x, y):
  """Adds a collapsed run."""
  return Points(
    {name: np.append(v, x) for name, v in points.variables.items()},
    np.append(points.y, y),
    np.append(points.censored, True),
    np.append(points.group, points.group.max() + 1),
    np.append(points.rows, points.rows.max() + 1),
  )


@pytest.mark.parametrize("delta", [1e-3, 1.0])
@pytest.mark.parametrize("unit", ["scale", "log"])
def test_exact_law_is_found(delta, unit):
  found = fit(ONE, runs(12, 0), Loss(delta, unit))
  expected = {"E": FLOOR, "A": FACTOR, "alpha": EXPONENT}
  assert found.values == pytest.approx(expected, rel=1e-5)
  assert found.converged
  assert found.agreeing >= 4


def test_two_variables_are_separated():
  x, x2 = np.meshgrid(np.geomspace(1e5, 1e8, 5), np.geomspace(1e6, 1e9, 5))
  x, x2 = x.ravel(), x2.ravel()
  y = 2 + 400 * x**-0.35 + 900 * x2**-0.3
  none = np.zeros(25, bool)
  points = Points(
    {"x": x, "x2": x2, "C": x * x2}, y, none, np.arange(25), np.arange(25)
  )
  found = fit(laws.Law(("x", "x2")), points, Loss())
  expected = {"E": 2, "A": 400, "alpha": 0.35, "B": 900, "beta": 0.3}
  assert found.values == pytest.approx(expected, rel=1e-4)


def test_slopes_are_derivatives():
  points = runs(7, 0.1)
  for law in (ONE, NO_FLOOR, laws.Law(("x", "C"))):
    design = laws.design_of(law, points.variables, points.y, points.censored)
    theta = np.linspace(0.2, 0.6, law.size)[None]
    slopes = laws.jacobian(design, laws.predict(design, theta))[0]
    for index in range(law.size):
      step = np.zeros(law.size)
      step[index] = 1e-6
      up, down = (
        laws.predict(design, theta + sign * step).log_y[0] for sign in (1, -1)
      )
      np.testing.assert_allclose(slopes[index], (up - down) / 2e-6, atol=1e-8)


def test_floor_is_zero_for_a_law_without_one():
  found = fit(ONE, runs(15, 0, floor=0.0), Loss())
  assert found.values["E"] == pytest.approx(0, abs=1e-6)
  assert found.values["alpha"] == pytest.approx(EXPONENT, rel=1e-4)


def test_search_leaves_a_floor_of_zero():
  points = runs(12, 0)
  design = laws.design_of(ONE, points.variables, points.y, points.censored)
  start = np.array([[0.0, 0.2, 0.0]])
  solved = solver.minimize(design, start, np.ones((1, 12)), [0.1, 1e-4])
  floor = laws.values_of(ONE, design.center, solved.theta)["E"][0]
  assert floor == pytest.approx(FLOOR, rel=1e-4)


def test_floors_of_resamples_pile_up_at_zero():
  found = fit(ONE, runs(20, 0.1, seed=2, floor=0.0), Loss())
  resampled = bootstrap.resample(found, runs(20, 0.1, seed=2), 100, (0,))
  floors = laws.values_of(ONE, found.design.center, resampled.theta)["E"]
  assert floors.min() == 0
  assert floors.max() > 0.1


def test_pinned_floor_stays_and_has_no_error():
  points = runs(20, 0.02)
  settings = analysis.Settings(floor=FLOOR, resamples=100)
  found = analyze(selection(points), settings)
  floor, alpha = found["parameters"]["E"], found["parameters"]["alpha"]
  assert floor["value"] == FLOOR
  assert floor["pinned"]
  assert floor["standard_error"] is None
  assert floor["interval95"] is None
  assert alpha["interval95"][0] < EXPONENT < alpha["interval95"][1]
  free = analyze(selection(points), analysis.Settings(resamples=100))
  # A known floor improves the estimate of the exponent.
  error = free["parameters"]["alpha"]["standard_error"]
  assert alpha["standard_error"] < 0.8 * error
  assert "y = 3 + A x^-alpha" in [
    form["form"] for form in found["heldout"]["forms"]
  ]


def test_wrong_floor_bends_the_exponent():
  pinned = fit(laws.Law(("x",), 4.0), runs(20, 0), Loss())
  assert pinned.values["alpha"] > EXPONENT + 0.03


def test_bound_above_the_law_changes_nothing():
  points = runs(15, 0.02)
  alone = fit(ONE, points, Loss())
  bounded = with_bound(points, 1e19, 40.0)
  found = fit(ONE, bounded, Loss())
  assert found.values == pytest.approx(alone.values, rel=1e-5)
  seen = bounded._replace(censored=np.zeros(16, bool))
  assert fit(ONE, seen, Loss()).values != pytest.approx(alone.values, rel=1e-5)
  record = analyze(selection(bounded), analysis.Settings(resamples=40))[
    "censored"
  ]
  assert record[0]["bound"] == 40
  assert not record[0]["counts"]


def test_bound_below_the_law_pulls_it_down():
  points = runs(15, 0.02)
  for index in range(5):
    points = with_bound(points, 1e19, 3.0 + 0.01 * index)
  found = fit(ONE, points, Loss(1.0))
  alone = fit(ONE, points.take(~points.censored), Loss(1.0))
  assert found.values["E"] < alone.values["E"] - 0.02
  record = analyze(selection(points), analysis.Settings(resamples=40))[
    "censored"
  ]
  assert len(record) == 5
  assert [e["counts"] for e in record] == [
    e["predicted"] > e["bound"] for e in record
  ]
  assert record[0]["counts"]


def test_rows_of_one_run_do_not_count_as_runs():
  points = runs(15, 0.03, copies=4)
  clustered = points._replace(group=points.rows // 4 - (points.rows % 4 == 0))
  found = fit(ONE, points, Loss())
  naive = bootstrap.resample(found, points, 300, (0,))
  honest = bootstrap.resample(found, clustered, 300, (0,))
  assert (naive.clusters, honest.clusters) == (60, 15)
  # Four copies double the error; smoothing reduces the ratio.
  ratio = honest.theta[:, 1].std() / naive.theta[:, 1].std()
  assert 1.5 < ratio < 3


def test_undetermined_resamples_are_left_out_and_counted():
  points = runs(6, 0.05)
  same = points._replace(variables={"x": points.variables["x"].copy()})
  same.variables["x"][1:4] = same.variables["x"][0]
  same.variables["C"] = same.variables["x"]
  found = analyze(selection(same), analysis.Settings(resamples=200))
  used = found["method"]["bootstrap"]["used"]
  assert 40 < used < 190
  assert any("too few distinct points" in w for w in found["warnings"])


def test_law_with_floor_predicts_larger_runs_better():
  found = compare.compare(runs(40, 0.02), (ONE, NO_FLOOR), Loss(), (0,))
  assert set(found["best"].values()) == {"y = E + A x^-alpha"}
  floored, bare = (form["heldout"]["10x"] for form in found["forms"])
  assert floored["error"] < 0.04
  assert bare["error"] > 2 * floored["error"]
  assert bare["coverage90"] < floored["coverage90"]
  assert floored["fitted"] + floored["predicted"] == 40


def test_prediction_intervals_have_their_nominal_coverage():
  inside, count = 0.0, 0
  for seed in range(15):
    found = compare.compare(runs(30, 0.03, seed), (ONE,), Loss(), (0,))
    held = found["forms"][0]["heldout"]["10x"]
    inside += held["coverage90"] * held["predicted"]
    count += held["predicted"]
  assert 0.80 < inside / count < 0.98


def test_too_few_smaller_runs_give_a_reason():
  found = compare.compare(runs(6, 0.02), (ONE,), Loss(), (0,))
  held = found["forms"][0]["heldout"]["10x"]
  assert held["error"] is None
  assert "finished points" in held["reason"]
  assert found["best"]["10x"] is None


def test_growth_is_detected_and_reported():
  points = runs(12, 0.02)
  grown = points._replace(y=points.y[::-1].copy())
  found = analyze(selection(grown), analysis.Settings(floor=0.0, resamples=60))
  assert found["parameters"]["alpha"]["value"] < 0
  assert any("does not fall" in warning for warning in found["warnings"])
