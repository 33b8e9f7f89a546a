import math

import pytest

from bigscale.report.curves import singular_value_charts, training_charts
from bigscale.report.read import read_run
from bigscale.train.writers import JsonLines


def _run(run_dir, rows):
  path = run_dir / "metrics.jsonl"
  path.write_text("")
  for step, values in enumerate(rows, 1):
    JsonLines(path).write({"step": step, "kimg": step / 10} | values)
  return read_run(run_dir)


def _layers(last):
  """10 rows of 60 layers with value 2, except for the last row."""
  usual = {f"g/sigma0/layer{i:02d}": 2.0 for i in range(60)}
  return [usual] * 9 + [usual | last]


def _named(chart):
  return [a for a, _, _ in chart.legend if a.startswith("layer")]


def test_layers_that_changed_most_are_named_and_the_others_gray(run_dir):
  last = {
    "g/sigma0/layer17": 200.0,
    "g/sigma0/layer40": 0.1,
    "g/sigma0/layer03": math.nan,
  }
  (chart,) = singular_value_charts(_run(run_dir, _layers(last)))
  named = _named(chart)
  assert len(named) == 6
  assert named[:3] == ["layer03", "layer17", "layer40"]
  rest = (
    "54 layers that changed less (largest value only)",
    "#8a8f98",
    "solid",
  )
  assert chart.legend[6] == rest


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_change_that_a_rollback_undid_counts(run_dir, scale):
  rows = _layers({"g/sigma0/layer17": 2.0 * scale})
  usual = rows[0] | {"attempt": 1}
  path = run_dir / "metrics.jsonl"
  _run(run_dir, rows)
  JsonLines(path).write({"step": 10, "kimg": 1.0} | usual)
  (chart,) = singular_value_charts(read_run(run_dir))
  assert _named(chart)[0] == "layer17"


def test_smaller_singular_values_are_lighter(run_dir):
  rows = [{f"{n}/sigma{k}/a": float(3 - k) for k in range(3) for n in "gd"}] * 3
  g, d = singular_value_charts(_run(run_dir, rows))
  assert (g.title, d.title) == (
    "Singular values of the generator (smaller ones lighter)",
    "Singular values of the discriminator (smaller ones lighter)",
  )
  for chart in (g, d):
    assert [label for label, _, _ in chart.legend] == ["a"]
    for opacity in ("0.6", "0.36"):
      assert f"opacity: {opacity}" in chart.svg


def test_values_that_are_not_positive_can_be_drawn(run_dir):
  rows = [{"g/sigma0/a": 0.0, "g/sigma0/b": -1.0}] * 3
  (chart,) = singular_value_charts(_run(run_dir, rows))
  assert _named(chart) == []
  assert len(chart.legend) == 2


def test_only_the_losses_have_a_verdict_band(rolled_back):
  charts = {a.title: a for a in training_charts(read_run(rolled_back))}
  for title, chart in charts.items():
    labels = [label for label, _, _ in chart.legend]
    assert "alarm" in labels
    assert ("verdict: ok" in labels) == (title == "Losses")
