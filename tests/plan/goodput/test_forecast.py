"""Tests of the constants of a forecast, and of its text."""

import json
import math

import pytest

from bigscale.plan.goodput import costs, forecast
from bigscale.plan.topology import GIB
from bigscale.spec import SpecError, from_config
from tests.e2e import tiny

PLAN = {
  "topology": "v5p:8x8x4",
  "estimated_step_seconds": 0.2,
  "memory": {"state": 2 * GIB},
}


def spec_of(**changes):
  config = tiny.get_config()
  config.total_kimg = 1000.0
  for path, value in changes.items():
    group, name = path.split("__")
    config[group][name] = value
  return from_config(config)


def test_constants_come_from_the_plan_and_the_config():
  spec = spec_of(checkpoint__kimg=8.0, evaluate__kimg=16.0)
  found = costs.costs_of(PLAN, spec, {"start_seconds": 7.0})
  # Steps of 8 images.
  assert found.checkpoint_seconds == pytest.approx(1000 * 0.2)
  assert found.evaluation_interval_seconds == pytest.approx(2000 * 0.2)
  assert (found.state_gib, found.start_seconds) == (2.0, 7.0)


def test_a_run_that_saves_only_at_its_end():
  found = costs.costs_of(PLAN, spec_of(checkpoint__kimg=0.0), {})
  assert found.checkpoint_seconds == pytest.approx(125 * 1000 * 0.2)
  assert costs.system(found, 8, "v5p:2x2x2", local=False).evaluation_interval


def test_the_system_of_the_constants():
  given = costs.costs_of(PLAN, spec_of(), {"preemption_chip_hours": 1000.0})
  one = costs.system(given, 4096, "v5p:8x8x4", local=True)
  # 50,000 chip hours on 4,096 chips are 12.2 hours.
  without = sum(f.rate for f in one.faults if not f.warned)
  assert 1 / without == pytest.approx(12.207 * 3600, rel=1e-4)
  local, store = one.tiers
  # A host of v5p has 4 chips.
  assert store.write == pytest.approx(8 / 0.5)
  assert store.blocking == pytest.approx(0.5 + 8 / 10)
  assert local.lost_by == {costs.PREEMPTION}
  assert {fault.name for fault in one.faults} >= local.lost_by


@pytest.mark.parametrize(
  ("word", "message"),
  [
    ("mtbf=3", "names no constant; they are step_seconds"),
    ("start_seconds=soon", "start_seconds=10"),
    ("start_seconds=-1", "start_seconds=-1 must be"),
    ("store_rate=0", "store_rate=0 must be more than 0"),
    ("local_rate=0", "local_rate=0 must be more than 0"),
    ("state_gib=inf", "must be finite"),
    ("host_share=2", "must be 1 or less"),
    ("straggler_slowdown=0.5", "must be 1 or more"),
  ],
)
def test_impossible_assumptions_are_refused(word, message):
  with pytest.raises(SpecError, match=message):
    costs.assumed([word])


def test_every_constant_is_documented():
  for name in vars(costs.Costs()):
    assert f"\n    {name}: " in costs.Costs.__doc__


def test_a_plan_that_does_not_fit_has_no_forecast():
  plan = PLAN | {"estimated_step_seconds": None}
  with pytest.raises(SpecError, match="step_seconds=NUMBER"):
    forecast.forecast(plan, spec_of(), {})
  assert costs.costs_of(plan, spec_of(), {"step_seconds": 1.0}).step_seconds


def test_forecast(monkeypatch):
  monkeypatch.setattr(forecast, "_FAULTS", 60)
  spec = spec_of(checkpoint__kimg=400.0)
  found = forecast.forecast(PLAN, spec, {}, larger=(128, 4096))
  assert [one["chips"] for one in found["machines"]] == [256, 4096]
  small, large = found["machines"]
  # 10,000 s between saves are too many for a fault every 12 hours.
  assert large["configured"]["goodput"] < large["young_daly"]["goodput"]
  assert large["young_daly"]["goodput"] < small["young_daly"]["goodput"]
  assert large["best"]["goodput"] >= large["young_daly"]["goodput"]
  assert sum(large["best"]["shares"].values()) == pytest.approx(1)
  assert json.dumps(found)
  text = forecast.text(found, spec)
  assert "4,096  12.2 h" in text
  wanted = small["young_daly"]["intervals"]["store"] / 0.2 * 8 / 1000
  assert f"--config.checkpoint.kimg={wanted:.3g} (now 400" in text
  assert "mtbf_chip_hours 5e+04" in text


def test_a_machine_without_faults():
  given = {"mtbf_chip_hours": 1e12, "start_seconds": 0.0}
  spec = spec_of(checkpoint__kimg=400.0)
  found = forecast.forecast(PLAN, spec, given, larger=())
  assert found["machines"][0]["best"]["goodput"] > 0.99
  assert math.isfinite(found["machines"][0]["seconds_between_faults"])
