"""Complete drills: training, fault, rollback, interventions and scores."""

import pytest

from bigscale.monitor.drills import interventions, table
from bigscale.monitor.drills.drills import Drills, as_line
from bigscale.monitor.drills.plan import Drill

STEPS = 400
WARMUPS = {"dense": 150}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
  return tmp_path_factory.mktemp("drills")


@pytest.fixture(scope="module")
def rows(out):
  wanted = [
    Drill("r3gan_8", "dense", what, 1000, STEPS)
    for what in ("undisturbed", "lr_both_100", "half_rates_declared")
  ]
  found = {row["what"]: row for row, _ in Drills(out).run(wanted)}
  # Finished drills do not run again.
  assert not list(Drills(out).run(wanted))
  # Only rows and events are kept.
  kept = {p.name for p in (out / "runs").glob("*/*")}
  assert {"metrics.jsonl", "events.jsonl"} <= kept
  assert not kept & {"checkpoints", "healthy", "abandoned"}
  return found


def test_an_undisturbed_run_has_no_alarm(rows):
  row = rows["undisturbed"]
  assert row["alarm"] is None
  assert row["last_step"] == STEPS
  scores = dict(row["scores"])
  assert scores[STEPS] < 0.7 * scores[50]


def test_a_divergence_is_detected_and_rolled_back(rows):
  row, twin = rows["lr_both_100"], rows["undisturbed"]
  end = table.end_of_row(row, twin)
  assert end.outcome == "lost"
  assert row["start"] <= row["alarm"]["step"] <= row["start"] + 40
  assert row["alarm"]["onset"] >= row["start"] - 20
  assert row["healthy"]["step"] < row["start"]
  made = table.Table([row, twin], WARMUPS)
  assert made.ends[row["name"]] == end
  removed, persisting = (row["recovery"][cause] for cause in table.CAUSES)
  assert removed["rollbacks"] == 1
  assert removed["ended"] is None
  assert removed["scores"][-1][1] < 1.5 * twin["scores"][-1][1]
  # The same rates ruin every attempt.
  assert persisting["rollbacks"] >= 1
  assert not made.recovered(row, "persisting")
  assert "lost at" in as_line(row, twin)


def test_a_declared_change_is_harmless(rows):
  row = rows["half_rates_declared"]
  end = table.end_of_row(row, rows["undisturbed"])
  assert end.outcome == "unharmed"
  assert row["last_step"] == STEPS


def test_the_summary_counts_all_runs(rows):
  found = table.score(rows.values(), WARMUPS)
  rates = found["rates"]["all"]
  assert rates["faults"] == {"lost": 1, "harmed": 0, "unharmed": 0}
  assert rates["recall"]["count"] == 1
  assert found["runs"]["controls"] == 2


def test_interventions_meet_the_fault_again(out):
  drill = Drill("r3gan_8", "dense", "lr_both_100", 1000, STEPS)
  cells = [interventions.Cell(drill, policy) for policy in ("none", "lower_lr")]
  rows = list(interventions.Interventions(out).run(cells))
  assert not list(interventions.Interventions(out).run(cells))
  for row in rows:
    assert row["rollbacks"] >= 1
    assert row["untreated"]["outcome"] == "lost"
  found = interventions.summary(rows)
  assert found["policies"]["none"]["saved"]["of"] == 1
  assert "lower_lr" in interventions.as_markdown(found)
