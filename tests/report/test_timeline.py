import json

import pytest

from bigscale.report.read import read_run
from bigscale.report.timeline import timeline
from bigscale.train.writers import JsonLines


def _stretches(run_dir):
  return [
    (a.attempt, round(a.first, 6), round(a.last, 6), a.level, a.abandoned)
    for a in timeline(read_run(run_dir)).stretches
  ]


def test_a_rollback_splits_an_attempt_where_the_next_one_began(rolled_back):
  assert _stretches(rolled_back) == [
    (0, 0.0, 5.0, "ok", False),
    (0, 5.0, 7.0, "ok", True),
    (0, 7.0, 8.0, "warn", True),
    (0, 8.0, 8.1, "rollback", True),
    (1, 5.0, 7.0, "ok", False),
  ]


def test_alarms_and_healthy_states_are_marked(rolled_back):
  history = timeline(read_run(rolled_back))
  marks = [(mark.kind, mark.attempt, mark.x) for mark in history.marks]
  assert marks == [("alarm", 0, 8.0), ("healthy", 0, 5.0)]
  (back,) = history.returns
  assert (back.attempt, back.start, back.target) == (1, 8.1, 5.0)
  assert history.attempts == [0, 1]


def test_a_second_rollback_abandons_more_of_the_first_attempt(rolled_back):
  JsonLines(rolled_back / "events.jsonl").write(
    {"event": "rollback", "step": 75, "attempt": 2, "to_step": 40}
  )
  assert _stretches(rolled_back) == [
    (0, 0.0, 4.0, "ok", False),
    (0, 4.0, 7.0, "ok", True),
    (0, 7.0, 8.0, "warn", True),
    (0, 8.0, 8.1, "rollback", True),
    (1, 5.0, 7.5, "ok", True),
  ]


def test_a_verdict_lasts_until_the_next(run_dir):
  events = JsonLines(run_dir / "events.jsonl")
  for step, level in ((30, "warn"), (60, "ok")):
    events.write({"event": "verdict", "step": step, "level": level})
  assert _stretches(run_dir) == [
    (0, 0.0, 3.0, "ok", False),
    (0, 3.0, 6.0, "warn", False),
    (0, 6.0, 10.0, "ok", False),
  ]


def test_a_run_without_events_is_ok_throughout(run_dir):
  assert _stretches(run_dir) == [(0, 0.0, 10.0, "ok", False)]


@pytest.mark.parametrize("action", ["off", None])
def test_a_run_without_a_monitor_has_no_timeline(run_dir, action):
  spec = json.loads((run_dir / "spec.json").read_text())
  spec["spec"]["monitor"] = {"action": action} if action else {}
  (run_dir / "spec.json").write_text(json.dumps(spec))
  assert timeline(read_run(run_dir)) is None


def test_kimg_follows_changes_of_the_batch_size(run_dir):
  """100 images per step; 200 from step 60, and after a rollback to step 40."""
  events = JsonLines(run_dir / "events.jsonl")
  start = {"event": "start", "step": 60, "batches": [[0, 100], [60, 200]]}
  back = {"event": "rollback", "step": 80, "to_step": 40, "attempt": 1}
  for event in (
    start,
    {"event": "verdict", "step": 80, "level": "rollback"},
    {"event": "healthy", "step": 80, "of_step": 40},
    back | {"batches": [[0, 100], [40, 200]]},
  ):
    events.write(event)
  run = read_run(run_dir)
  assert [run.kimg_at(step, 0) for step in (40, 60, 80)] == [4.0, 6.0, 10.0]
  assert [run.kimg_at(step) for step in (40, 60)] == [4.0, 8.0]
  history = timeline(run)
  (returned,) = history.returns
  assert (returned.start, returned.target) == (10.0, 4.0)
  marks = [(mark.kind, mark.x) for mark in history.marks]
  assert marks == [("alarm", 10.0), ("healthy", 4.0)]


def test_a_change_that_was_undone_before_a_save_has_no_effect(run_dir):
  """200 images per step from step 60; after a kill, 100 from step 60."""
  events = JsonLines(run_dir / "events.jsonl")
  start = {"event": "start", "step": 60}
  events.write(start | {"batches": [[0, 100], [60, 200]]})
  events.write(start)
  assert read_run(run_dir).kimg_at(80) == 8.0


def test_attempts_before_the_first_change_have_the_first_batch_size(run_dir):
  """100 images per step, a rollback from 80 to 40, then 200 from step 60."""
  events = JsonLines(run_dir / "events.jsonl")
  events.write({"event": "rollback", "step": 80, "to_step": 40, "attempt": 1})
  change = {"event": "start", "step": 60, "attempt": 1}
  events.write(change | {"batches": [[0, 100], [60, 200]]})
  spec = json.loads((run_dir / "spec.json").read_text())
  spec["spec"]["global_batch_size"] = 200
  (run_dir / "spec.json").write_text(json.dumps(spec))
  run = read_run(run_dir)
  assert [run.kimg_at(80, 0), run.kimg_at(80, 1)] == [8.0, 10.0]


@pytest.mark.parametrize("pieces", [7, [7], [[0, "x"]], [[0]], "no", {}])
def test_invalid_batch_sizes_are_ignored(run_dir, pieces):
  event = {"event": "start", "step": 60, "batches": pieces}
  JsonLines(run_dir / "events.jsonl").write(event)
  assert read_run(run_dir).kimg_at(60) == pytest.approx(6.0)


def test_changes_with_a_consequence_are_marked(run_dir):
  events = JsonLines(run_dir / "events.jsonl")
  change = {"event": "setting_changed", "step": 60, "old": 1, "new": 2}
  events.write(change | {"setting": "optim.g_lr.first", "consequence": "some"})
  events.write(change | {"setting": "log.steps"})
  marks = timeline(read_run(run_dir)).marks
  assert [(mark.kind, mark.x) for mark in marks] == [("changed", 6.0)]
