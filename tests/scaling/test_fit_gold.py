"""Refits the law of Hoffmann et al. 2022 as Besiroglu et al. 2024 did."""

import json
import pathlib

import numpy as np
import pytest
from scipy import optimize

from bigscale.cli import main as program
from bigscale.scaling import bootstrap, laws, solver, table
from bigscale.scaling.fit import Loss, fit

RUNS = str(pathlib.Path(__file__).parent.parent / "golden/chinchilla_runs.csv")
FLAGS = (
  "--x=Model Size",
  "--flops=Training FLOP",
  "--x2=flops/6x",
  "--y=loss",
  "--drop_worst=5",
)
COLUMNS = table.Columns(
  x="Model Size",
  y="loss",
  x2="flops/6x",
  flops="Training FLOP",
  drop_worst=5,
)


@pytest.fixture(scope="module")
def points():
  return table.select(RUNS, COLUMNS).points


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
  """Output of the command with its defaults, including 4,000 resamples."""
  out = tmp_path_factory.mktemp("gold") / "law.json"
  code = program.main(
    ["bigscale", "scaling", "fit", RUNS, *FLAGS, f"--out={out}"]
  )
  assert code == 0
  return json.loads(out.read_text())


@pytest.mark.parametrize(
  ("name", "value", "within"),
  [
    ("alpha", 0.3478, 0.001),
    ("beta", 0.3658, 0.001),
    ("E", 1.8169, 0.001),
    ("A", 482.01, 4.8),
    ("B", 2085.43, 20.9),
  ],
)
def test_golden_parameters(printed, name, value, within):
  assert printed["parameters"][name]["value"] == pytest.approx(
    value, abs=within
  )


@pytest.mark.parametrize(
  ("name", "error", "low", "high"),
  [
    ("E", 0.0257, 1.769, 1.871),
    ("A", 124.5, 285, 744),
    ("alpha", 0.0154, 0.317, 0.373),
    ("B", 1293.3, 1042, 5810),
    ("beta", 0.0206, 0.331, 0.415),
  ],
)
def test_golden_intervals(printed, name, error, low, high):
  found = printed["parameters"][name]
  assert found["standard_error"] == pytest.approx(error, rel=0.1)
  # Two bootstraps differ by less than a quarter of a standard error.
  np.testing.assert_allclose(
    found["interval95"], [low, high], rtol=0, atol=0.25 * error
  )


def test_golden_split(printed):
  p = printed["split"]["p"]
  assert p["value"] == pytest.approx(0.513, abs=0.001)
  assert p["standard_error"] == pytest.approx(0.020, rel=0.1)


def test_golden_record(printed):
  method = printed["method"]
  assert printed["points"] == 240
  assert [entry["row"] for entry in printed["excluded"]] == [1, 2, 3, 4, 5]
  assert method["converged"]
  assert method["starts_agreeing"] >= 4
  assert method["bootstrap"]["used"] == 4000
  assert method["bootstrap"]["unconverged"] == 0
  assert method["bootstrap"]["seconds"] < 60
  horizon = printed["heldout"]["forms"][0]["heldout"]["10x"]
  assert horizon["predicted"] == 19
  assert 0 < horizon["error"] < 0.03
  # Two larger runs are too few to choose a form.
  assert printed["heldout"]["best"]["4x"] is None
  assert "2 larger runs" in printed["heldout"]["reasons"]["4x"]


def test_golden_scipy_finds_no_lower_loss(points):
  """The paper's loss, minimized by another solver from the paper's start."""
  loss = Loss(1e-3, "log")
  ours = fit(laws.Law(("x", "x2")), points, loss)
  log_x, log_x2 = np.log(points.variables["x"]), np.log(points.variables["x2"])

  def objective(t):
    terms = np.stack(
      [t[0] - t[1] * log_x, t[2] - t[3] * log_x2, np.full_like(log_x, t[4])]
    )
    total = np.logaddexp.reduce(terms)
    shares = np.exp(terms - total)
    residual = total - np.log(points.y)
    pull = shares * np.clip(residual, -1e-3, 1e-3)
    gradient = [
      pull[0].sum(),
      -(pull[0] * log_x).sum(),
      pull[1].sum(),
      -(pull[1] * log_x2).sum(),
      pull[2].sum(),
    ]
    # In units of delta, so that the gradient tolerance does not stop it early.
    return (
      solver.huber(residual, 1e-3).sum() * 1e3,
      np.array(gradient) * 1e3,
    )

  start = [np.log(406.4), 0.34, np.log(410.7), 0.28, np.log(1.69)]
  theirs = optimize.minimize(
    objective, start, jac=True, method="BFGS", options={"gtol": 1e-4}
  )
  assert ours.objective * 1e3 <= theirs.fun + 1e-9
  a, alpha, b, beta, e = theirs.x
  expected = {
    "E": np.exp(e),
    "A": np.exp(a),
    "alpha": alpha,
    "B": np.exp(b),
    "beta": beta,
  }
  assert ours.values == pytest.approx(expected, rel=1e-3)


def test_golden_no_nearby_point_has_a_lower_loss(points):
  """The loss has many kinks if delta is a thousandth of the residuals."""
  found = fit(laws.Law(("x", "x2")), points, Loss())
  rng = np.random.default_rng(0)
  size = 10.0 ** rng.uniform(-7, -1, size=(4000, 1))
  near = found.theta + size * rng.standard_normal((4000, 5))
  residual = solver.residuals(found.design, laws.predict(found.design, near))
  others = solver.huber(residual, found.delta).sum(axis=1)
  assert others.min() >= found.objective * (1 - 1e-9)


def test_first_resamples_do_not_depend_on_their_number(points):
  found = fit(laws.Law(("x", "x2")), points, Loss())
  few = bootstrap.resample(found, points, 5, (3, 0)).theta
  more = bootstrap.resample(found, points, 12, (3, 0)).theta
  np.testing.assert_allclose(more[:5], few, rtol=1e-9)
  other = bootstrap.resample(found, points, 5, (4, 0)).theta
  assert np.abs(other - few).max() > 1e-3
