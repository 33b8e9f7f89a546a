"""Training gives the same numbers in one process and in several."""

import pytest

from tests.e2e import tiny
from tests.parallel import training

# Enough for latents, labels, flips, weights and statistics to matter.
STEPS = 3


def config(data: int = 1, fsdp: int = 1, weights: str = "replicated") -> dict:
  config = tiny.smallest(widths=(8,))
  config.model.dtype = "float64"
  config.mesh = {"data": data, "fsdp": fsdp, "weights": weights}
  # Split every leaf that can be split.
  config.mesh.min_split_elements = 2
  return config.to_dict()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  folder = tmp_path_factory.mktemp("alone")
  return training.run(folder, config(), STEPS, processes=1, devices=1)


@pytest.mark.parametrize(
  ("processes", "devices", "mesh"),
  [
    pytest.param(2, 2, (2, 2, "zero"), id="2-zero", marks=pytest.mark.slow),
    pytest.param(2, 2, (2, 2, "fsdp"), id="2-fsdp"),
    pytest.param(2, 2, (4, 1), id="2-replicated", marks=pytest.mark.slow),
    # Weights are split between the processes.
    pytest.param(2, 2, (1, 4, "zero"), id="2-all", marks=pytest.mark.slow),
    pytest.param(4, 1, (4, 1), id="4-replicated", marks=pytest.mark.slow),
    pytest.param(4, 1, (2, 2, "fsdp"), id="4-fsdp", marks=pytest.mark.slow),
  ],
)
def test_float64_agrees_on_any_process_count(
  tmp_path, alone, processes, devices, mesh
):
  """Shows that results do not depend on how devices are distributed."""
  several = training.run(
    tmp_path, config(*mesh), STEPS, processes=processes, devices=devices
  )
  assert several["metrics/d/loss"].dtype == "float64"
  worst = training.worst_difference(alone, several)
  assert max(worst.values()) < 1e-8, worst


def test_metrics_change(alone):
  """Otherwise, agreement would mean nothing."""
  assert len(set(alone["metrics/d/loss"])) == STEPS
  assert alone["state/step"] == STEPS
