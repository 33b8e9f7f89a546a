r"""Measure which interventions save small training runs whose fault persists.

Example:
  bigscale monitor interventions --out=runs/drills

Every policy trains the same collapsing run with rollbacks. A run takes about
half a minute. Each finished run has a row in DIR/interventions.jsonl and does
not run again, so the command can be interrupted and repeated.

More examples:
  bigscale monitor interventions --out=runs/drills --part=1/2
  bigscale monitor interventions --out=runs/drills --score_only --json
"""

import json
import pathlib
import sys

from bigscale.cli.common import part_of, share_compiled_programs
from bigscale.cli.flags import Flags
from bigscale.spec import require

FLAGS = Flags()
FLAGS.heading("Runs")
FLAGS.local_path("out", None, "Folder of the results and runs.")
FLAGS.list("only", [], "Names of collapses to run. Default: all.")
FLAGS.list("policies", [], "Names of policies to run. Default: all.")
FLAGS.integer("seeds", 1, "Runs of each collapse and policy.", lower_bound=1)
FLAGS.string("part", "1/1", "K/N runs the K-th of N parts of the runs.")
FLAGS.heading("Output")
FLAGS.bool("keep_runs", False, "Keep the checkpoints of the runs.")
FLAGS.bool("score_only", False, "Run nothing; print the existing results.")
FLAGS.bool("json", False, "Print JSON instead of tables in Markdown.")


def run(path: str = "") -> int:
  """Runs all policies and prints what they saved."""
  require(not path, f"unexpected argument {path!r}; give --out={path}")
  out = pathlib.Path(FLAGS.require("out", "runs/drills"))
  from bigscale.monitor.drills import interventions as plans

  known = {what for kinds in plans.COLLAPSES.values() for what in kinds}
  for flag, names, allowed in (
    ("only", FLAGS.only, sorted(known)),
    ("policies", FLAGS.policies, list(plans.POLICIES)),
  ):
    for name in names:
      require(
        name in allowed,
        f"--{flag}={name} is not known; use any of {', '.join(allowed)}",
      )
  share, parts = part_of(FLAGS.part)
  cells = plans.plan(FLAGS.seeds, FLAGS.only, FLAGS.policies)
  cells = plans.part(cells, share, parts)
  share_compiled_programs(out / "programs")
  runner = plans.Interventions(out, FLAGS.keep_runs)
  if not FLAGS.score_only:
    for row in runner.run(cells):
      print(plans.as_line(row), file=sys.stderr, flush=True)
  names = {cell.name for cell in cells}
  rows = [row for row in runner.rows() if row["name"] in names]
  require(bool(rows), f"--out={out} has no results of these runs")
  found = plans.summary(rows)
  print(json.dumps(found, indent=2) if FLAGS.json else plans.as_markdown(found))
  return 0
