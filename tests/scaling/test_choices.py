"""Tests of laws under other floors and cuts."""

import numpy as np
import pytest

from bigscale.scaling import analysis
from bigscale.scaling.analysis import Settings
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection

SIZES, LENGTHS = np.geomspace(1e4, 1e6, 4), np.geomspace(1e5, 6.4e6, 10)


def curves(shift, seed=0, floor=1.0):
  """Returns E + A N^-0.4 + B (D + shift)^-0.5 of 4 sizes x 3 seeds."""
  rng = np.random.default_rng(seed)
  n, _, d = (
    part.ravel()
    for part in np.meshgrid(SIZES, range(3), LENGTHS, indexing="ij")
  )
  group = np.repeat(np.arange(12), len(LENGTHS))
  y = floor + 40 * n**-0.4 + 2e3 * (d + shift) ** -0.5
  y = y * np.exp(rng.normal(0, 0.02, 12)[group] + rng.normal(0, 0.02, len(y)))
  points = Points(
    {"x": n, "x2": d, "C": n * d},
    y,
    np.zeros(len(y), bool),
    group,
    np.arange(len(y)),
  )
  names = {"x": "n", "x2": "d", "y": "y", "C": "n d"}
  return Selection(points, names, [], 0, "run", None, {})


def record(selection, **settings):
  made = analysis.study(selection, Settings(None, 100, **settings))
  return analysis.record(made)


def about_cuts(found):
  return [text for text in found["warnings"] if "of all rows and" in text]


def test_a_warmup_moves_the_exponent():
  found = record(curves(1e6))
  assert any(text.startswith("beta is") for text in about_cuts(found))
  # Rows that several cuts leave alone are one choice.
  rows = [entry["rows"] for entry in found["choices"]]
  assert rows == [120, 84, 60, 48, 36]
  assert found["choices"][0]["error"] is None


def test_a_power_is_the_same_after_a_cut():
  """Its exponent moves too, but not beyond chance."""
  found = record(curves(0.0))
  assert about_cuts(found) == []
  betas = [entry["parameters"]["beta"] for entry in found["choices"]]
  assert betas[0] == pytest.approx(0.5, abs=0.1)
  low, high = found["parameters"]["beta"]["interval95"]
  assert not low < betas[-1] < high


@pytest.mark.slow
def test_choices_are_judged_by_runs_that_were_held_out():
  found = record(curves(1e6, floor=0.0), choices=True)
  floors = [entry["floor"] for entry in found["choices"]]
  assert floors == ["free"] * 5 + ["none"] * 5
  errors = [entry["error"] for entry in found["choices"]]
  assert all(0 < error < 1 for error in errors)
  # Without a floor, the early rows of a shifted power spoil the forecast, and
  # the runs held out do better than it.
  assert min(errors[5:]) < errors[5]
  assert found["choices"][5]["signed"] < 0


def test_runs_of_one_row_have_no_cut():
  selection = curves(0.0)
  last = selection.points.variables["x2"] == LENGTHS[-1]
  last |= np.random.default_rng(0).random(len(last)) < 0.1
  points = selection.points.take(last)
  points = points._replace(group=np.arange(len(points.y)))
  assert record(selection._replace(points=points))["choices"] is None
