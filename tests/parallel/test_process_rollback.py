"""All processes roll back together."""

import numpy as np
import pytest

from tests.e2e.monitored import STEPS, Ended
from tests.parallel import rollback, training


@pytest.mark.slow
def test_two_processes_roll_back_as_one_does(tmp_path):
  folders = [tmp_path / "one", tmp_path / "two"]
  for folder in folders:
    folder.mkdir()
  (alone,) = rollback.run(folders[0], processes=1, devices=2)
  first, second = rollback.run(folders[1], processes=2, devices=1)
  assert first["step"] == STEPS
  assert first["attempt"] == 1
  assert first["dials/g_lr"] == 0.5
  assert first.keys() == second.keys()
  for name, value in first.items():
    np.testing.assert_array_equal(value, second[name], err_msg=name)
  worst = training.worst_difference(alone, first)
  assert max(worst.values()) < 1e-8, worst

  one, two = (Ended(folder / "run", None, {}) for folder in folders)
  assert one.kinds() == two.kinds()
  for kind in ("verdict", "healthy", "rollback"):
    steps = [
      [(e["step"], e["attempt"]) for e in run.events(kind)]
      for run in (one, two)
    ]
    assert steps[0] == steps[1]
  assert one.events("rollback")[0]["turned"] == {"lr": 0.5, "d": 4}
  assert two.events("rollback")[0]["turned"] == {"lr": 0.5, "d": 4}
  assert two.saved("healthy") == one.saved("healthy") == [6, STEPS]
