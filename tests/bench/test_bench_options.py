"""Tests of `bigscale bench options`."""

import numpy as np
import pytest

from bigscale.bench import options
from bigscale.bench.options import Comparison
from bigscale.cli import main
from bigscale.parallel import compiler
from bigscale.spec import from_config
from tests.e2e import tiny

SAFE = {"xla_cpu_enable_fast_min_max": False}


@pytest.fixture
def spec(monkeypatch):
  monkeypatch.setitem(compiler.TRAINING, "cpu", SAFE)
  return from_config(tiny.smallest())


def test_one_step_runs_with_options_and_one_without(spec, monkeypatch):
  """Only one of the two programs is compiled with the options."""
  told = []
  build = options.build

  def recorded(spec, mesh):
    built = build(spec, mesh)
    told.append(built.compiler_options)
    return built

  monkeypatch.setattr(options, "build", recorded)
  found = options.measure(spec, 1)
  assert told == [SAFE, {}]
  assert found.options == SAFE
  assert found.agrees
  assert found.differences.keys() == found.worst.keys() == {"g", "d"}
  assert all(0 <= x < 1e-4 for x in found.differences.values())
  text = str(found)
  assert "xla_cpu_enable_fast_min_max=False" in text
  assert "the options are safe on these devices" in text


def test_comparison_names_the_weight_that_differs_most():
  expected = {"a": np.ones(4), "b": np.full(4, 1e-9), "c": np.ones(4)}
  found = expected | {"c": np.full(4, 1.5), "b": np.full(4, -1e-9)}
  whole, (path, own) = options._compare(found, expected)
  assert (path, own) == ("c", pytest.approx(0.5))
  assert whole == pytest.approx(0.5 / 2**0.5)
  # A tiny gradient is treated as noise, but NaN counts as a difference.
  found["b"] = np.full(4, np.nan)
  whole, (path, own) = options._compare(found, expected)
  assert path == "b"
  assert np.isnan(whole)


@pytest.mark.parametrize("difference", [0.1, float("nan")])
def test_a_large_difference_fails_the_command(difference, monkeypatch, capsys):
  found = Comparison(
    devices="1 x chip",
    options=SAFE,
    differences={"g": 1e-7, "d": difference},
    worst={"g": ("a", 1e-7), "d": ("b", difference)},
    tolerance=1e-3,
    seconds=(1.0, 2.0),
  )
  monkeypatch.setattr(options, "measure", lambda spec, steps: found)
  command = ["bigscale", "bench", "options", f"--config={tiny.__file__}"]
  assert main.main(command) == 1
  assert "do not use these options here" in capsys.readouterr().out
