"""FLOP of the current state and of all computed steps."""

import types

import pytest

from bigscale.parallel.peaks import CHIP_PEAK_FLOPS, peak_flops
from bigscale.plan.topology import CHIPS
from bigscale.scaling.flops import training_flops
from bigscale.spec import from_config
from bigscale.train.meter import Meter
from tests.e2e import tiny


def device(kind, chip=0, core=0):
  return types.SimpleNamespace(
    device_kind=kind, coords=[chip, 0, 0], core_on_chip=core, slice_index=0
  )


@pytest.fixture
def spec():
  return from_config(tiny.get_config())


def test_totals_depend_on_the_step(spec):
  per_step = training_flops(spec).per_step
  meter = Meter(spec)
  assert meter.totals(0) == {"perf/total_flops": 0, "perf/spent_flops": 0}
  assert meter.totals(5) == {
    "perf/total_flops": 5 * per_step,
    "perf/spent_flops": 5 * per_step,
  }


def test_discarded_steps_count_as_spent(spec):
  per_step = training_flops(spec).per_step
  meter = Meter(spec)
  meter.go_back(5, 2, spec.count)
  meter.go_back(3, 2, spec.count)
  assert meter.totals(5) == {
    "perf/total_flops": 5 * per_step,
    "perf/spent_flops": 9 * per_step,
  }


def test_a_restart_continues_the_sums(spec):
  meter = Meter(spec)
  meter.go_back(5, 2, spec.count)
  other = Meter(spec, meta={"kimg": 1.0, "flops": meter.get_state(5)})
  assert other.totals(7) == meter.totals(7)
  assert meter.get_state(5)["spent"] == 8 * training_flops(spec).per_step
  # A checkpoint of a version that did not store them.
  assert Meter(spec, meta={"kimg": 1.0}).totals(7) == Meter(spec).totals(7)


def test_utilization_is_a_fraction_of_the_peak(spec):
  per_step = training_flops(spec).per_step
  meter = Meter(spec, [device("TPU v5 lite", chip) for chip in range(4)])
  peak = 4 * CHIP_PEAK_FLOPS["v5e"]
  assert meter.pace(10, 2.0) == {
    "perf/mfu": pytest.approx(10 * per_step / 2.0 / peak)
  }


def test_without_a_peak_there_is_no_utilization(spec):
  assert Meter(spec, [device("cpu")]).pace(10, 2.0) == {}
  assert Meter(spec, [device("TPU v9")]).pace(10, 2.0) == {}


def test_cores_share_a_chip_s_peak():
  cores = [device("TPU v3", chip, core) for chip in (0, 1) for core in (0, 1)]
  assert peak_flops(cores) == 2 * 123e12
  # On Cloud TPU, a device is a chip.
  assert peak_flops([device("TPU v4", chip) for chip in (0, 1)]) == 2 * 275e12


def test_the_planner_uses_the_same_peaks():
  for family, chip in CHIPS.items():
    assert chip.cores * chip.peak_flops == CHIP_PEAK_FLOPS[family]
