"""Tests of `bigscale bench step`."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bigscale.bench import step as bench
from bigscale.cli.main import main
from bigscale.parallel.mesh import make_mesh
from bigscale.scaling import jaxpr_flops
from bigscale.spec import SpecError, from_config
from bigscale.train.build import build
from tests.e2e import tiny


@pytest.fixture(scope="module")
def spec():
  return from_config(tiny.get_config())


@pytest.fixture(scope="module")
def timing(spec):
  return bench.measure(spec, steps=3)


def test_step_timing_has_plausible_values(spec, timing):
  assert 0 < timing.min_seconds <= timing.median_seconds
  assert timing.images_per_second == pytest.approx(
    spec.global_batch_size / timing.median_seconds
  )
  assert timing.tflop_per_second == pytest.approx(
    timing.step_tflop / timing.median_seconds
  )
  assert 0 < timing.tflop_per_second < timing.bound_tflop_per_second
  assert timing.compile_seconds > 0
  assert 0.05 < timing.peak_rss_gib < 64
  assert timing.devices == "1 x cpu"


def test_flop_grow_with_batch_size(spec, timing):
  twice = dataclasses.replace(spec, global_batch_size=16)
  built = build(twice, make_mesh(twice.mesh))
  flop = jaxpr_flops.of_call(
    built.step, built.abstract_state, built.abstract_batch
  ).flops
  assert 1.8 < flop / 1e12 / timing.step_tflop <= 2


def test_random_batch_has_the_shape_and_range_of_a_real_one(spec):
  built = build(spec, make_mesh(spec.mesh))
  batch = bench.random_batch(built)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), batch)
  assert shapes == jax.tree.map(
    lambda x: (x.shape, x.dtype), built.abstract_batch
  )
  assert np.std(batch.images) > 50
  assert set(np.asarray(batch.labels).ravel()) <= set(range(10))


def test_text_contains_all_metrics(timing):
  text = str(timing)
  for word in ("1 x cpu", "ms", "/s", "TFLOP/s", "GiB", "compile"):
    assert word in text


def test_zero_steps_are_refused(spec):
  with pytest.raises(SpecError, match="steps=0 must be at least 1"):
    bench.measure(spec, steps=0)


def test_the_command_prints_json(tmp_path, capsys):
  config = tmp_path / "config.py"
  config.write_text("from tests.e2e.tiny import get_config\n")
  command = ["bigscale", "bench", "step", f"--config={config}", "--steps=1"]
  assert main([*command, "--json"]) == 0
  figures = json.loads(capsys.readouterr().out)
  assert set(figures) == {f.name for f in dataclasses.fields(bench.StepTiming)}


@pytest.mark.parametrize("what", [[], ["sleep"]])
def test_unknown_benchmarks_are_refused(what, capsys):
  assert main(["bigscale", "bench", *what]) == 2
  assert "use: bigscale bench step --config=" in capsys.readouterr().err
