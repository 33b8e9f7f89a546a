r"""Inject faults into small training runs on the CPU and score the monitor.

Example:
  bigscale monitor drill --out=runs/drills

A drill takes about half a minute. Each finished drill has a row in
DIR/drills.jsonl and does not run again, so the command can be interrupted and
repeated. --part divides the drills over several processes.

More examples:
  bigscale monitor drill --out=runs/drills --only=lr_both_100,d_spikes --json
  bigscale monitor drill --out=runs/drills --part=1/2
  bigscale monitor drill --out=runs/drills --score_only --markdown
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from bigscale.cli.common import part_of, share_compiled_programs
from bigscale.cli.flags import Flags
from bigscale.spec import require

FLAGS = Flags()
FLAGS.heading("Drills")
FLAGS.local_path("out", None, "Folder of the results and runs.")
FLAGS.list("only", [], "Names of faults and controls to run. Default: all.")
FLAGS.enum(
  "kinds",
  "all",
  ("all", "seen", "unseen"),
  "Faults to run: those that were known when the monitor was designed, or "
  "others.",
)
FLAGS.list("stages", [], "Models to use. Default: r3gan_8,biggan_8.")
FLAGS.enum(
  "watch",
  "all",
  ("all", "dense", "shipped"),
  "How the monitor watches: every 10 steps, or with the shipped settings.",
)
FLAGS.integer("fault_seeds", 1, "Runs of each fault and model.", lower_bound=0)
FLAGS.integer(
  "control_seeds", 2, "Runs of each control and model.", lower_bound=0
)
FLAGS.string("part", "1/1", "K/N runs the K-th of N parts of the drills.")
FLAGS.heading("Output")
FLAGS.bool("keep_runs", False, "Keep the checkpoints of the runs.")
FLAGS.bool("score_only", False, "Run no drills; score the existing results.")
FLAGS.local_path(
  "verdict_of",
  None,
  "Checkout of another version of this library, whose verdict judges the "
  "recorded rows instead.",
)
FLAGS.bool("json", False, "Print JSON.")
FLAGS.bool("markdown", False, "Print tables in Markdown.")


def run(path: str = "") -> int:
  """Runs the drills and prints the monitor's scores."""
  require(not path, f"unexpected argument {path!r}; give --out={path}")
  out = pathlib.Path(FLAGS.require("out", "runs/drills"))
  from bigscale.monitor.drills import rejudge, table
  from bigscale.monitor.drills.drills import Drills, as_line
  from bigscale.monitor.drills.stages import WATCHED

  chosen = _chosen()
  share_compiled_programs(out / "programs")
  runner = Drills(out, FLAGS.keep_runs)
  if not FLAGS.score_only:
    for row, twin in runner.run(chosen):
      print(as_line(row, twin), file=sys.stderr, flush=True)
  names = {drill.name for drill in chosen}
  names |= {drill.trunk.name for drill in chosen}
  rows = [row for row in runner.rows() if row["name"] in names]
  require(bool(rows), f"--out={out} has no results of these drills")
  if FLAGS.verdict_of:
    rows = rejudge.judge(out, rows, pathlib.Path(FLAGS.verdict_of))
  warmups = {watch: of.warmup for watch, of in WATCHED.items()}
  scored = table.score(rows, warmups)
  if FLAGS.json:
    print(json.dumps(scored, indent=2))
  else:
    of = table.as_markdown if FLAGS.markdown else table.as_text
    print(of(scored))
  return 0


def _chosen() -> Sequence[object]:
  """Returns the drills that the flags select."""
  from bigscale.monitor.drills import plan
  from bigscale.monitor.drills.kinds import KINDS
  from bigscale.monitor.drills.stages import STAGES, WATCHES

  for name in FLAGS.only:
    require(
      name in KINDS,
      f"--only={name} is not a drill; use any of {', '.join(KINDS)}",
    )
  for name in FLAGS.stages:
    require(
      name in STAGES,
      f"--stages={name} is not a model; use any of {', '.join(STAGES)}",
    )
  share, parts = part_of(FLAGS.part)
  planned = plan.plan(
    FLAGS.stages or plan.DEFAULT_STAGES,
    WATCHES if FLAGS.watch == "all" else (FLAGS.watch,),
    FLAGS.fault_seeds,
    FLAGS.control_seeds,
  )
  wanted = [
    drill
    for drill in planned
    if drill.what in (FLAGS.only or KINDS)
    and (
      not drill.kind.is_fault
      or FLAGS.kinds == "all"
      or drill.kind.seen == (FLAGS.kinds == "seen")
    )
  ]
  return plan.part(wanted, share, parts)
