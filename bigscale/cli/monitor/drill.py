r"""Inject faults into small training runs on the CPU and score the monitor.

Example:
  bigscale monitor drill --out=runs/drills

A drill takes about a minute. Each finished drill has a row in DIR/drills.jsonl
and does not run again, so the command can be interrupted and repeated. --part
divides the drills over several processes.

More examples:
  bigscale monitor drill --out=runs/drills --only=lr_both_100,d_spikes --json
  bigscale monitor drill --out=runs/drills --part=1/2
"""

import json
import pathlib
import sys

from bigscale.cli.common import part_of
from bigscale.cli.flags import Flags
from bigscale.spec import require

FLAGS = Flags()
FLAGS.heading("Drills")
FLAGS.local_path("out", None, "Folder of the results and runs.")
FLAGS.list("only", [], "Names of faults and controls to run. Default: all.")
FLAGS.enum(
  "group",
  "test",
  ("test", "tuning"),
  "Runs to use: those on which the thresholds were tuned, or others.",
)
FLAGS.integer("fault_seeds", 2, "Runs of each fault and model.", lower_bound=0)
FLAGS.integer(
  "control_seeds", 3, "Runs of each control and model.", lower_bound=0
)
FLAGS.string("part", "1/1", "K/N runs the K-th of N parts of the drills.")
FLAGS.heading("Output")
FLAGS.bool("keep_runs", False, "Keep the checkpoints of the runs.")
FLAGS.bool("score_only", False, "Run no drills; score the existing results.")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Runs the drills and prints the monitor's scores."""
  require(not path, f"unexpected argument {path!r}; give --out={path}")
  out = pathlib.Path(FLAGS.require("out", "runs/drills"))
  import jax

  from bigscale.monitor import drill_stages, drills, faults, scoring

  known = faults.FAULTS | faults.CONTROLS
  for name in FLAGS.only:
    require(
      name in known,
      f"--only={name} is not a drill; use any of {', '.join(known)}",
    )
  share, parts = part_of(FLAGS.part)
  planned = drills.plan((FLAGS.group,), FLAGS.fault_seeds, FLAGS.control_seeds)
  wanted = FLAGS.only or known
  chosen = drills.part([d for d in planned if d.what in wanted], share, parts)
  # Shares compiled programs between the parts and with the next start.
  jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
  runner = drills.Drills(out, FLAGS.keep_runs)
  if not FLAGS.score_only:
    for row in runner.run(chosen):
      print(drills.as_line(row), file=sys.stderr, flush=True)
  rows = [row for row in runner.rows() if row["group"] == FLAGS.group]
  require(bool(rows), f"--out={out} has no results of --group={FLAGS.group}")
  scored = scoring.score(rows, drill_stages.WARMUP)
  print(json.dumps(scored, indent=2) if FLAGS.json else scoring.as_text(scored))
  return 0
