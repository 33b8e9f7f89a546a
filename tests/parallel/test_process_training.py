"""Same numbers in one process and several."""

import pytest

from tests.e2e import tiny
from tests.parallel import training

# Latents, labels, flips, weights, statistics: all that a step holds.
STEPS = 3


def config() -> dict:
  config = tiny.get_config()
  config.model.dtype = "float64"
  config.mesh.data = -1
  return config.to_dict()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  folder = tmp_path_factory.mktemp("alone")
  return training.run(folder, config(), STEPS, processes=1, devices=4)


@pytest.mark.parametrize(
  ("processes", "devices"),
  [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)],
)
def test_float64_agrees_on_any_process_count(
  tmp_path, alone, processes, devices
):
  """Proves the logic: nothing depends on how devices are spread."""
  several = training.run(
    tmp_path, config(), STEPS, processes=processes, devices=devices
  )
  assert several["metrics/d/loss"].dtype == "float64"
  worst = training.worst_difference(alone, several)
  assert max(worst.values()) < 1e-8, worst


def test_metrics_move(alone):
  """Or agreement would say nothing."""
  assert len(set(alone["metrics/d/loss"])) == STEPS
  assert alone["state/step"] == STEPS
