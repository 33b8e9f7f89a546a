import math

import pytest

from bigscale.monitor import scoring
from bigscale.monitor.drill_stages import SMALL, Stage
from bigscale.monitor.drills import Drill, branch, part, plan
from bigscale.monitor.faults import CONTROLS, FAULTS
from bigscale.monitor.scoring import lost_step


def _row(what="lr_both_10", *, fault=True, lost=None, alarm=None, **fields):
  return {
    "name": f"{what}-0",
    "what": what,
    "stage": "r3gan_8",
    "seed": 0,
    "fault": fault,
    "start": 500,
    "total_steps": 1000,
    "last_step": 1000,
    "lost_step": lost,
    "alarm": None if alarm is None else {"step": alarm, "reasons": []},
    "scores": [[400, 10.0], [1000, 8.0]],
    **fields,
  }


def test_wilson_is_the_textbook_interval():
  # Newcombe 1998, table I, case 81 of 263: 0.2553 to 0.3662.
  found = scoring.wilson(81, 263)
  assert found["interval95"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
  assert scoring.wilson(5, 5)["interval95"][1] == 1.0
  assert scoring.wilson(0, 0)["share"] is None


def test_no_alarm_in_30000_steps_bounds_the_rate():
  found = scoring.poisson(0, 30_000)
  assert found["per_10000"] == 0
  # 3.689 is half the 97.5% quantile of chi squared with two degrees.
  assert found["interval95"] == pytest.approx([0, 3.689 / 3], abs=1e-3)
  low, high = scoring.poisson(4, 10_000)["interval95"]
  assert (low, high) == pytest.approx((1.090, 10.242), abs=1e-3)


@pytest.mark.parametrize(
  ("scores", "ended", "expected"),
  [
    ([(10, 8.0), (20, 4.0), (30, 7.9)], None, None),
    ([(10, 8.0), (20, 4.0), (30, 8.1), (40, 9.0)], None, 30),
    # The run recovers.
    ([(10, 4.0), (20, 9.0), (30, 7.0), (40, 3.0)], None, None),
    # The run is lost again.
    ([(10, 4.0), (20, 9.0), (30, 7.0), (40, 8.5)], None, 40),
    ([(10, 4.0), (20, math.nan)], None, 20),
    ([(10, 4.0)], 17, 17),
    ([(10, 4.0), (20, 12.0)], 27, 20),
    ([], None, None),
  ],
)
def test_a_run_is_lost_where_it_stays_twice_as_bad(scores, ended, expected):
  assert lost_step(scores, ended) == expected


def test_alarms_are_counted_where_they_belong():
  rows = [
    _row(lost=640, alarm=600),
    _row(lost=640, alarm=700),
    _row(lost=640),
    # An alarm before the fault is false, and the fault is not detected.
    _row(lost=640, alarm=300),
    # An alarm for a harmless fault is neither true nor false.
    _row(alarm=600),
    _row("undisturbed", fault=False),
    _row("d_spikes", fault=False, alarm=700),
    # A lost control has no healthy steps.
    _row("small_batch", fault=False, lost=800, alarm=700),
  ]
  found = scoring.score(rows, warmup=100)
  assert found["runs"] == {"faulty": 4, "harmless": 1, "healthy": 2, "ill": 1}
  assert (found["recall"]["count"], found["recall"]["of"]) == (2, 4)
  assert (found["in_time"]["count"], found["in_time"]["of"]) == (1, 4)
  assert found["lead"]["steps"] == {"median": -10, "percentile10": -60}
  assert found["false_alarms"]["count"] == 2
  assert found["false_alarms"]["steps"] == 5 * 400 + 2 * 900
  assert found["by_fault"]["d_spikes"]["alarms"] == 1
  assert "2 of 4, 50.0%" in scoring.as_text(found)


def test_steps_that_drills_share_are_counted_once():
  rows = [
    _row("undisturbed", fault=False),
    _row("d_spikes", fault=False, shared_steps=500),
    _row(lost=640, alarm=600, shared_steps=500),
  ]
  found = scoring.score(rows, warmup=100)
  assert found["false_alarms"]["steps"] == 900 + 500


def test_a_healthy_checkpoint_is_as_good_as_the_best_before_the_alarm():
  rows = [
    _row(lost=640, alarm=600, healthy={"step": 560, "score": 10.9}),
    _row(lost=640, alarm=600, healthy={"step": 560, "score": 11.1}),
    _row(lost=640, alarm=600, healthy={"step": 560, "score": None}),
    # No checkpoint was saved.
    _row(lost=640, alarm=600, healthy=None),
  ]
  found = scoring.score(rows, warmup=100)["healthy_good"]
  assert (found["count"], found["of"]) == (1, 4)


def test_a_run_that_was_past_its_best_has_no_better_state_to_save():
  def scores(*found):
    return [[400, 10.0], *found, [1000, 30.0]]

  rows = [
    _row(lost=640, alarm=600, scores=scores([480, 10.9])),
    _row(lost=640, alarm=600, scores=scores([480, 11.1])),
    # The best score was reached after the start of the fault.
    _row(lost=640, alarm=600, scores=scores([480, 10.0], [560, 8.0])),
    # Without an alarm, no state was saved.
    _row(lost=640, scores=scores([480, 10.0])),
  ]
  found = scoring.score(rows, warmup=100)["run_good"]
  assert (found["count"], found["of"]) == (1, 3)


def test_recovered_is_as_good_as_the_undisturbed_twin_at_its_end():
  def recovery(last, ended=None, rollbacks=1):
    scores = [[400, 1.0], [600, 50.0], [1000, last]]
    return {"scores": scores, "ended": ended, "rollbacks": rollbacks}

  twin = _row(
    "undisturbed",
    fault=False,
    scores=[[400, 20.0], [600, 9.0], [800, 10.0], [1000, 11.0]],
  )
  seen = {"lost": 640, "alarm": 600}
  rows = [
    twin,
    _row(**seen, recovery=recovery(10.9)),
    _row(**seen, recovery=recovery(11.1)),
    _row(**seen, recovery=recovery(5.0, ended=900)),
    _row(**seen, recovery=recovery(5.0, rollbacks=0)),
    # Without an undisturbed run of its seed, the run is not counted.
    _row(**seen, recovery=recovery(5.0)) | {"seed": 1},
  ]
  found = scoring.score(rows, warmup=100)["recovered"]
  assert (found["count"], found["of"]) == (1, 4)


def test_tuning_and_test_share_no_run():
  drills = plan(("tuning", "test"), 2, 3)
  assert len({drill.name for drill in drills}) == len(drills)
  tuning, test = (
    {(d.stage, d.seed) for d in drills if d.group == group}
    for group in ("tuning", "test")
  )
  assert not {s for s, _ in tuning} & {s for s, _ in test}
  assert not {s for _, s in tuning} & {s for _, s in test}
  # The number of runs in the table.
  assert sum(d.is_fault for d in drills if d.group == "test") >= 60
  assert sum(not d.is_fault for d in drills if d.group == "test") >= 40
  assert {d.what for d in drills} == set(FAULTS) | set(CONTROLS)


def test_a_small_batch_takes_as_many_steps():
  stage = Stage("r3gan_8")
  small, usual = stage.spec(divisor=SMALL), stage.spec()
  assert small.total_steps == usual.total_steps == 700
  assert small.global_batch_size == usual.global_batch_size // SMALL
  kimgs = [spec.evaluate.kimg for spec in (small, usual)]
  assert small.count.every(kimgs[0]) == usual.count.every(kimgs[1])


def test_a_drill_is_disturbed_at_a_moment_of_its_own():
  starts = {Drill("test", "r3gan_16", "d_frozen", s).start for s in range(9)}
  assert len(starts) > 5
  assert starts == {
    Drill("test", "r3gan_16", "d_frozen", s).start for s in range(9)
  }


def test_parts_are_all_drills_and_keep_a_trunk_together():
  drills = plan(("test",), 1, 2)
  parts = [part(drills, share, 2) for share in (1, 2)]
  assert sorted(d.name for p in parts for d in p) == sorted(
    d.name for d in drills
  )
  one, other = ({(d.stage, d.seed) for d in p} for p in parts)
  assert one
  assert other
  assert not one & other


def test_only_what_begins_alike_has_a_trunk():
  drills = [Drill("test", "r3gan_16", what, 7) for what in FAULTS | CONTROLS]
  own = {d.what for d in drills if d.trunk is None}
  assert own == {"undisturbed", "small_batch"}
  trunks = {d.trunk for d in drills if d.trunk}
  assert trunks == {Drill("test", "r3gan_16", "undisturbed", 7)}


@pytest.mark.parametrize(
  ("before", "step"), [(250, 200), (200, 200), (199, 100), (99, 0)]
)
def test_a_branch_goes_on_from_the_newest_checkpoint_before(
  tmp_path, before, step
):
  trunk, run = tmp_path / "trunk", tmp_path / "run"
  for saved in ("100", "200", "300", "300.orbax-checkpoint-tmp-0"):
    (trunk / "checkpoints" / saved).mkdir(parents=True)
  (trunk / "metrics.jsonl").write_text('{"step": 100}\n')
  run.mkdir()
  assert branch(trunk, run, before) == step
  copied = sorted(int(x.name) for x in (run / "checkpoints").glob("*"))
  assert copied == [saved for saved in (100, 200) if saved <= step]
  assert (run / "metrics.jsonl").exists() == bool(step)
