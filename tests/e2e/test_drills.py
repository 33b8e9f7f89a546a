"""Two complete drills: training, fault, rollback and scores."""

import pytest
from bigscale.monitor.drill_stages import WARMUP

from bigscale.monitor import drills, scoring

STEPS = 400
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  out = tmp_path_factory.mktemp("drills")
  wanted = [
    drills.Drill("tuning", "r3gan_8", what, 1000, STEPS)
    for what in ("undisturbed", "lr_both_100")
  ]
  found = {row["what"]: row for row in drills.Drills(out).run(wanted)}
  # Finished drills do not run again.
  assert not list(drills.Drills(out).run(wanted))
  return found


def test_an_undisturbed_run_has_no_alarm(rows):
  row = rows["undisturbed"]
  assert row["lost_step"] is None
  assert row["alarm"] is None
  assert row["steps"] == row["last_step"] == STEPS
  scores = dict(row["scores"])
  assert scores[STEPS] < 0.7 * scores[50]


def test_a_divergence_is_detected_and_rolled_back(rows):
  row = rows["lr_both_100"]
  assert row["lost_step"] is not None
  assert row["start"] <= row["alarm"]["step"] <= row["start"] + 40
  assert row["alarm"]["onset"] >= row["start"] - 20
  assert row["healthy"]["step"] < row["start"]
  # The saved state is as good as the states before the fault.
  before = [score for step, score in row["scores"] if step < row["start"]]
  assert row["healthy"]["score"] < 1.3 * min(before)
  recovery = row["recovery"]
  assert recovery["rollbacks"] >= 1
  assert recovery["ended"] is None
  goal = rows["undisturbed"]["scores"][-1][1]
  assert recovery["scores"][-1][1] < 1.5 * goal
  assert row["scores"][-1][1] > 2 * goal


def test_the_summary_counts_both_runs(rows):
  found = scoring.score(rows.values(), WARMUP)
  assert found["runs"] == {"faulty": 1, "harmless": 0, "healthy": 1, "ill": 0}
  assert found["recall"]["count"] == 1
  assert found["false_alarms"]["count"] == 0
