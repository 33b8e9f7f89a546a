r"""Put faults into small real trainings on CPU, and score the monitor.

  bigscale monitor drill --out=runs/drills
  bigscale monitor drill --out=runs/drills --only=lr_both_100,d_spikes --json
  bigscale monitor drill --out=runs/drills --part=1/2

A drill takes about a minute. Drills that have a row in DIR/drills.jsonl are not
run again: stop it and start it at will, or start several with `--part`.
"""

import json
import pathlib
import sys

from bigscale.cli.common import part_of
from bigscale.cli.flags import Flags
from bigscale.spec import require

FLAGS = Flags()
FLAGS.bool("json", False, "print JSON")
FLAGS.local_path("out", None, "folder of rows and runs")
FLAGS.list("only", [], "faults and controls by name; all if empty")
FLAGS.enum(
  "group",
  "test",
  ("test", "tuning"),
  "the runs that thresholds were chosen on, or others",
)
FLAGS.integer("fault_seeds", 2, "runs of each fault and model", lower_bound=0)
FLAGS.integer(
  "control_seeds", 3, "runs of each control and model", lower_bound=0
)
FLAGS.string("part", "1/1", "K/N, the K-th of N shares of the runs")
FLAGS.bool("keep_runs", False, "keep the runs' checkpoints")
FLAGS.bool("score_only", False, "print the table of what is there")


def run(path: str = "") -> int:
  """Puts faults into small real trainings."""
  require(not path, f"monitor drill takes no path; use --out={path}")
  out = pathlib.Path(FLAGS.require("out", "runs/drills"))
  import jax

  from bigscale.monitor import drill_stages, drills, faults, scoring

  known = faults.FAULTS | faults.CONTROLS
  for name in FLAGS.only:
    require(
      name in known, f"--only={name} is no drill; use any of {', '.join(known)}"
    )
  share, parts = part_of(FLAGS.part)
  planned = drills.plan((FLAGS.group,), FLAGS.fault_seeds, FLAGS.control_seeds)
  wanted = FLAGS.only or known
  chosen = drills.part([d for d in planned if d.what in wanted], share, parts)
  # Several parts, and the next start, find the programs compiled.
  jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
  runner = drills.Drills(out, FLAGS.keep_runs)
  if not FLAGS.score_only:
    for row in runner.run(chosen):
      print(drills.as_line(row), file=sys.stderr, flush=True)
  rows = [row for row in runner.rows() if row["group"] == FLAGS.group]
  require(bool(rows), f"--out={out} has no drills of --group={FLAGS.group}")
  scored = scoring.score(rows, drill_stages.WARMUP)
  print(json.dumps(scored, indent=2) if FLAGS.json else scoring.as_text(scored))
  return 0
