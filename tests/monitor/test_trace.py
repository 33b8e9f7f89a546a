"""Reading recorded traces, and the verdict over them."""

import json
import math
import random

import pytest

from bigscale.monitor.trace import Trace, read_trace, replay
from bigscale.spec import SpecError
from bigscale.spec.verdict import VerdictSpec


def write(tmp_path, text, name="trace.csv"):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def sigma(steps=1000, at=700, growth=1.01, spacing=10, seed=0):
  """Returns a column that grows slowly with noise, exponentially after `at`."""
  rng = random.Random(seed)
  for step in range(0, steps, spacing):
    faster = growth ** max(0, step - at)
    yield step, (2 + step / 1000) * faster * math.exp(rng.gauss(0, 0.01))


def csv_of(values, name="g/sigma0/fc"):
  lines = [f"{step},{value:.6g}" for step, value in values]
  return "\n".join([f"step,{name}", *lines]) + "\n"


def test_a_single_column_that_explodes(tmp_path):
  found = replay(read_trace(write(tmp_path, csv_of(sigma()))), VerdictSpec())
  alarm = next(a for a in found["alarms"] if a["level"] == "rollback")
  assert alarm["signal"] == "g/sigma0/fc"
  assert alarm["value"] > 2 * alarm["reference"]
  assert 700 < alarm["step"] < 980
  assert found["healthy_step"] < alarm["onset"] <= found["healthy_step"] + 10
  assert 680 <= found["healthy_step"] < 850
  json.dumps(found, allow_nan=False)


def test_a_single_column_that_is_healthy(tmp_path):
  healthy = csv_of(sigma(at=1000))
  found = replay(read_trace(write(tmp_path, healthy)), VerdictSpec())
  assert found == {
    "alarms": [],
    "healthy_step": 990,
    "rows": 100,
    "notes": [],
  }


def test_a_number_that_is_not_finite(tmp_path):
  text = "step,d/loss\n0,0.7\n10,0.6\n20,nan\n30,0.6\n"
  found = replay(read_trace(write(tmp_path, text)), VerdictSpec())
  assert found["alarms"][0] == {
    "step": 20,
    "level": "rollback",
    "signal": "d/loss",
    "value": None,
    "reference": found["alarms"][0]["reference"],
    "rule": "not finite",
    "onset": 20,
    "also": [],
  }
  assert found["healthy_step"] == 10


def test_nothing_healthy_before_the_onset(tmp_path):
  text = "step,d/loss\n0,inf\n10,0.6\n"
  found = replay(read_trace(write(tmp_path, text)), VerdictSpec())
  assert found["healthy_step"] is None


def test_a_few_rows_are_nothing_to_judge_by(tmp_path):
  text = "step,d/loss\n0,0.5\n10,0.6\n"
  found = replay(read_trace(write(tmp_path, text)), VerdictSpec())
  assert found["healthy_step"] is None
  assert "too few values" in found["notes"][0]


def test_the_warm_up_counts_from_the_first_step(tmp_path):
  late = [(step + 50_000, value) for step, value in sigma()]
  trace = read_trace(write(tmp_path, csv_of(late)))
  assert replay(trace, VerdictSpec(), warmup=0)["alarms"]
  assert not replay(trace, VerdictSpec(), warmup=1000)["alarms"]


def test_kinks_are_not_judged(tmp_path):
  values = [(s, v * (5 if s >= 500 else 1)) for s, v in sigma(at=1000)]
  trace = read_trace(write(tmp_path, csv_of(values)))
  assert replay(trace, VerdictSpec())["alarms"]
  assert not replay(trace, VerdictSpec(), kinks=[500])["alarms"]


def test_cells_that_are_missing_or_no_numbers(tmp_path):
  text = (
    "\ufeffstep, d/loss ,g/loss\r\n"
    "1,0.5,\r\n"
    "\r\n"
    "2,oops,0.5\r\n"
    "3.0,0.5,0.5,9\r\n"
    "four,0.5,0.5\r\n"
    "4.5,0.5,0.5\r\n"
    "5\r\n"
    "6,1_0,NaN\r\n"
  )
  trace = read_trace(write(tmp_path, text))
  assert trace.rows[:4] == [
    (1, {"d/loss": 0.5}),
    (2, {"g/loss": 0.5}),
    (3, {"d/loss": 0.5, "g/loss": 0.5}),
    (5, {}),
  ]
  assert math.isnan(trace.rows[4][1].pop("g/loss"))
  assert trace.rows[4] == (6, {})
  assert trace.notes == [
    "d/loss: cells that are not numbers, read as missing: 2, the first in "
    "line 4",
    "rows without a whole step, skipped: 2, the first in line 6",
    "rows with more cells than the header: 1, the first in line 5",
  ]


def test_steps_that_repeat_or_decrease_are_noted():
  rows = [(step, {"d/loss": 0.5}) for step in (10, 20, 20, 5, 30)]
  found = replay(Trace(rows=rows, notes=[]), VerdictSpec())
  assert "2 rows repeat an earlier step: skipped" in found["notes"]


def test_other_delimiters_and_cases(tmp_path):
  trace = read_trace(write(tmp_path, "Step;D_loss\n1;0.5\n"))
  assert trace.rows == [(1, {"D_loss": 0.5})]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", "is empty"),
    ("\n\n", "is empty"),
    ("time,loss\n1,2\n", "no columns named `step`"),
    ("1,2\n3,4\n", "no columns named `step`"),
    ("step,step\n1,2\n", "2 columns named `step`"),
    ("step,a,a\n1,2,3\n", r"several columns named \['a'\]"),
    ("step\n1\n", "no column but the step"),
    ("step,loss\n", "no row with a step"),
    ("step,loss\nx,1\n", "the first in line 2"),
    (b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read as text"),
    (b"step,loss\n1,\x00\n", "binary"),
  ],
)
def test_bad_files_are_refused(tmp_path, content, message):
  with pytest.raises(SpecError, match=message):
    read_trace(write(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(SpecError, match="is not a file"):
    read_trace(str(tmp_path / "none.csv"))
  with pytest.raises(SpecError, match=r"metrics.jsonl is not a file"):
    read_trace(str(tmp_path))


@pytest.fixture
def run_dir(tmp_path):
  rows = [
    *({"step": s, "attempt": 0, "d/loss": 0.5 + s} for s in (10, 20, 30, 40)),
    *({"step": s, "attempt": 1, "d/loss": 1.5 + s} for s in (30, 40, 50)),
  ]
  rows[3]["d/loss"] = "NaN"
  lines = [json.dumps(row) for row in rows]
  text = "\n".join([*lines, "[1]", '{"step": 60, "d/lo'])
  write(tmp_path, text, "metrics.jsonl")
  return str(tmp_path)


def test_the_rows_of_a_run_are_those_that_led_to_its_end(run_dir):
  trace = read_trace(run_dir)
  assert [step for step, _ in trace.rows] == [10, 20, 30, 40, 50]
  assert [row["d/loss"] for _, row in trace.rows] == [
    10.5,
    20.5,
    31.5,
    41.5,
    51.5,
  ]
  assert trace.notes == ["2 lines are not rows with a step"]


def test_an_attempt_that_was_given_up_can_be_asked_for(run_dir):
  trace = read_trace(run_dir, attempt=0)
  assert [step for step, _ in trace.rows] == [10, 20, 30, 40]
  assert math.isnan(trace.rows[3][1]["d/loss"])
  with pytest.raises(SpecError, match=r"attempt=7 has no rows.*\[0, 1\]"):
    read_trace(run_dir, attempt=7)


def test_the_warm_up_is_at_most_a_fifth_of_a_short_trace(tmp_path):
  short = csv_of(sigma(steps=150, at=100, growth=1.1, spacing=1))
  trace = read_trace(write(tmp_path, short))
  assert not replay(trace, VerdictSpec(), warmup=200)["alarms"]
  assert replay(trace, VerdictSpec())["alarms"]
