"""A report can be written although events have invalid steps."""

import json

import pytest

from bigscale.cli.main import main
from bigscale.report.read import read_run

KINDS = ("start", "times", "rollback", "verdict", "healthy", "evaluation",
         "done", "lost", "preempted", "anything", None)  # fmt: skip
FIELDS = ("step", "to_step", "of_step", "attempt", "seconds")


@pytest.mark.parametrize(
  "value",
  [None, "x", "", -5, [], {}, True, 1.5, float("nan"), 10**30, 10**400],
  ids=lambda value: str(value)[:8],
)
def test_an_invalid_step_is_a_note_and_not_an_error(value, run_dir, capsys):
  whole = {"step": 4, "to_step": 2, "of_step": 3, "attempt": 1, "time": 2.0}
  whole |= {"seconds": {"step": 1.0}, "level": "rollback", "why": "x"}
  with (run_dir / "events.jsonl").open("a") as file:
    for kind in KINDS:
      for field in FIELDS:
        file.write(json.dumps({"event": kind} | whole | {field: value}) + "\n")
        gone = {k: v for k, v in whole.items() if k != field}
        file.write(json.dumps({"event": kind} | gone) + "\n")
  assert main(["bigscale", "report", f"--workdir={run_dir}"]) == 0
  assert "Traceback" not in capsys.readouterr().err
  noted = [note for note in read_run(run_dir).notes if "invalid steps" in note]
  odd = isinstance(value, (str, list, dict, bool)) or value != value
  assert bool(noted) == (odd or value == 10**400)
