"""The categories of wall time add up to the wall time."""

import pytest

from bigscale.report.goodput import CATEGORIES, goodput, table


def start(time, at=0, **seconds):
  return {"event": "start", "time": time, "step": at, "seconds": seconds}


def times(time, at, **seconds):
  return {"event": "times", "time": time, "step": at, "seconds": seconds}


def event(kind, time, step, **fields):
  return {"event": kind, "time": time, "step": step, **fields}


QUIET = [
  start(100.0, start=10.0),
  times(160.0, 10, step=40.0, data=5.0, compile=15.0),
  times(200.0, 30, step=30.0, evaluate=6.0, start=4.0),
  event("done", 200.0, 30),
]


def test_an_undisturbed_run():
  found = goodput(QUIET)
  assert {k: v for k, v in found.items() if v} == {
    "start": 10.0,
    "step": 70.0,
    "data": 5.0,
    "compile": 15.0,
    "evaluate": 6.0,
    "other": 4.0,
  }
  # The run began 10 s before the first event.
  assert sum(found.values()) == pytest.approx(110.0)


def test_a_killed_run_loses_steps_and_has_downtime():
  events = [
    start(100.0, start=10.0),
    times(160.0, 10, step=60.0),
    times(200.0, 30, step=40.0),
    # No `times` event explains the last 5 s.
    event("evaluation", 205.0, 34),
    # Killed; resumes from the checkpoint of step 20.
    start(300.0, 20, start=8.0),
    times(340.0, 40, step=40.0),
    event("done", 340.0, 40),
  ]
  found = goodput(events)
  assert found["redone"] == pytest.approx(20.0)
  assert found["step"] == pytest.approx(60.0 + 20.0 + 40.0)
  assert found["down"] == pytest.approx(300.0 - 8.0 - 205.0)
  assert found["other"] == pytest.approx(5.0)
  assert found["start"] == pytest.approx(18.0)
  assert sum(found.values()) == pytest.approx(340.0 - 90.0)


def test_abandoned_steps_are_counted_once():
  events = [
    start(100.0, start=0.0),
    times(200.0, 100, step=100.0),
    event("rollback", 203.0, 100, to_step=80),
    times(233.0, 110, step=27.0, rollback=3.0, data=3.0),
    # Killed; resumes from a step before the rollback target.
    start(240.0, 60, start=0.0),
    times(250.0, 70, step=10.0),
  ]
  found = goodput(events)
  assert found["rolled back"] == pytest.approx(20.0)
  assert found["redone"] == pytest.approx(20.0 + 27.0)
  assert found["step"] == pytest.approx(60.0 + 10.0)
  assert sum(found.values()) == pytest.approx(150.0)


def test_a_run_without_times_has_no_table():
  assert goodput([]) == {}
  assert goodput([event("done", 3.0, 1)]) == {}
  old = [{"event": "start", "time": 5.0, "step": 0}, event("done", 65.0, 9)]
  assert goodput(old)["other"] == 60.0
  assert table([]) == []


def test_the_table_has_percentages():
  rows = dict(table(QUIET))
  assert rows["Training steps"] == "1 min 10 s (63.6%)"
  assert "Downtime between starts" not in rows
  assert len(rows) <= len(CATEGORIES)
