"""Same numbers in one process and several."""

import pytest

from tests.e2e import tiny
from tests.parallel import training

# Latents, labels, flips, weights, statistics: all that a step holds.
STEPS = 3


def config(data: int = 1, fsdp: int = 1, weights: str = "replicated") -> dict:
  config = tiny.smallest(widths=(8,))
  config.model.dtype = "float64"
  config.mesh = {"data": data, "fsdp": fsdp, "weights": weights}
  # All that can be split is.
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
    # Weights are split between processes.
    pytest.param(2, 2, (1, 4, "zero"), id="2-all", marks=pytest.mark.slow),
    pytest.param(4, 1, (4, 1), id="4-replicated", marks=pytest.mark.slow),
    pytest.param(4, 1, (2, 2, "fsdp"), id="4-fsdp", marks=pytest.mark.slow),
  ],
)
def test_float64_agrees_on_any_process_count(
  tmp_path, alone, processes, devices, mesh
):
  """Proves the logic: nothing depends on how devices are spread."""
  several = training.run(
    tmp_path, config(*mesh), STEPS, processes=processes, devices=devices
  )
  assert several["metrics/d/loss"].dtype == "float64"
  worst = training.worst_difference(alone, several)
  assert max(worst.values()) < 1e-8, worst


def test_metrics_move(alone):
  """Or agreement would say nothing."""
  assert len(set(alone["metrics/d/loss"])) == STEPS
  assert alone["state/step"] == STEPS
