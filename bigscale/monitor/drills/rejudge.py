"""Judges recorded drills with the verdict of another version of the library."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from bigscale.monitor.drills.kinds import KINDS
from bigscale.monitor.drills.stages import SCORE_STEPS, WATCHED
from bigscale.spec import require

# Columns that no live verdict sees.
_HIDDEN = ("perf/", "monitor/")
# Columns that the verdicts of versions without an anchor do not see or know.
_SINCE_ANCHORS = ("eval/", "anchor/")

# Runs in a process of its own, with the other version first on its path.
_PROGRAM = """
import dataclasses, json, sys
asked = json.load(sys.stdin)
sys.path.insert(0, asked["checkout"])
import bigscale
if not bigscale.__file__.startswith(asked["checkout"] + "/"):
  sys.exit("it contains no folder bigscale")
from bigscale.monitor import trace
from bigscale.spec import VerdictSpec
found, known = {}, tuple(asked["hidden"])
try:
  from bigscale.monitor.columns import kind_of
  anchored = kind_of("anchor/data/pixels").known
except (ImportError, AttributeError):
  anchored = False
if not anchored:
  known += tuple(asked["since_anchors"])
for run in asked["runs"]:
  read = trace.read_trace(run["folder"], 0)
  rows = [
    (step, {k: x for k, x in row.items() if not k.startswith(known)})
    for step, row in read.rows
  ]
  read = dataclasses.replace(read, rows=[row for row in rows if row[1]])
  names = {field.name for field in dataclasses.fields(VerdictSpec)}
  spec = {k: x for k, x in run["verdict"].items() if k in names}
  judged = trace.replay(read, VerdictSpec(**spec), run["kinks"], run["warmup"])
  found[run["name"]] = [
    alarm for alarm in judged["alarms"] if alarm["level"] == "rollback"
  ]
json.dump(found, sys.stdout)
"""


def judge(
  out: pathlib.Path, rows: Iterable[Mapping[str, Any]], checkout: pathlib.Path
) -> list[dict[str, Any]]:
  """Returns rows whose alarms are those of another version's verdict.

  The states saved at alarms and the recoveries are those of this version and
  are removed. Scores and the anchor's columns are hidden from a version without
  an anchor, which judges only steps.

  Args:
    out: folder of the drills.
    rows: rows of `drills.jsonl`.
    checkout: folder of the other version, which contains `bigscale/`.

  Raises:
    SpecError: the verdict in the checkout cannot replay a trace.
  """
  rows = [dict(row) for row in rows]
  asked = {
    "checkout": str(checkout.resolve()),
    "hidden": _HIDDEN,
    "since_anchors": _SINCE_ANCHORS,
    "runs": [_asked(out, row) for row in rows],
  }
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM],
    input=json.dumps(asked),
    capture_output=True,
    text=True,
    check=False,
    cwd=checkout,
  )
  require(
    done.returncode == 0,
    f"--verdict_of={checkout} cannot judge the rows: "
    f"{(done.stderr.strip().splitlines() or ['no message'])[-1]}",
  )
  alarms = json.loads(done.stdout)
  return [_replaced(row, alarms[row["name"]]) for row in rows]


def _asked(out: pathlib.Path, row: Mapping[str, Any]) -> dict[str, Any]:
  watched = WATCHED[row["watch"]]
  # A declared change takes effect at the checkpoint that the run resumes from.
  resumed = (row["start"] - 1) // SCORE_STEPS * SCORE_STEPS
  declared = [resumed] if KINDS[row["what"]].declared else []
  return {
    "name": row["name"],
    "folder": str((out / "runs" / f"{row['name']}-watched").resolve()),
    "verdict": dict(watched.monitor.get("verdict", {})),
    "warmup": watched.warmup,
    "kinks": declared,
  }


def _replaced(
  row: Mapping[str, Any], alarms: list[dict[str, Any]]
) -> dict[str, Any]:
  first = 0 if row["from_start"] else row["start"]
  counted = [alarm for alarm in alarms if alarm["step"] >= first]
  kept = {
    k: x for k, x in row.items() if k not in ("healthy", "recovery", "warnings")
  }
  return kept | {
    "alarm": counted[0] if counted else None,
    "alarms": [alarm["step"] for alarm in counted],
  }
