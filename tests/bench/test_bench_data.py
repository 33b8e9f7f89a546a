"""Tests of `bigscale bench data`."""

import dataclasses
import json

import pytest

from bigscale.bench import data as bench
from bigscale.cli.main import main
from bigscale.spec import SpecError, from_config
from tests.e2e import tiny


def test_stream_timing_has_plausible_values():
  timing = bench.measure(from_config(tiny.get_config()), steps=20)
  assert 50 < timing.images_per_second < 1e6
  assert 0 < timing.processor_us_per_image < 1e5
  assert 0 < timing.start_seconds < 60
  assert 50 < timing.read_images_per_second < 1e6
  # Uncompressed pixels in memory gain nothing from a second thread.
  assert timing.readers == "1 thread"
  for word in ("/s", "us per image", "ms to the first", "GiB"):
    assert word in str(timing)


def test_zero_steps_are_refused():
  with pytest.raises(SpecError, match="steps=0 must be at least 1"):
    bench.measure(from_config(tiny.get_config()), steps=0)


def test_the_command_prints_json(tmp_path, capsys):
  config = tmp_path / "config.py"
  config.write_text("from tests.e2e.tiny import get_config\n")
  command = ["bigscale", "bench", "data", f"--config={config}", "--steps=2"]
  assert main([*command, "--json"]) == 0
  figures = json.loads(capsys.readouterr().out)
  assert set(figures) == {f.name for f in dataclasses.fields(bench.DataTiming)}
