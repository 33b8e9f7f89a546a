r"""Train all runs of a sweep and write tables of the results.

Example:
  bigscale scaling sweep --config=sweeps/stacked_mnist --out=DIR

Trains the runs one after the other, each in a folder of DIR/runs. Writes
DIR/runs.csv with a row per run, and DIR/curves.csv with a row per evaluation.
`bigscale.scaling.sweep` describes the format of the config.

The command can be interrupted and repeated: it skips runs that are done or
collapsed and resumes the others. --part divides the runs over several
processes. --jobs trains nothing. Instead, for each remaining run, it writes a
config and an env file for launch/*.sh, and prints the name of the env file.

The tables take the settings of a run from its spec.json. If the settings in a
folder differ from the config, the command prints the differences and trains
nothing. --anew trains such a run in a new folder and keeps the old folder. Runs
that are no longer in the config stay in the tables, with in_config=no.

More examples:
  bigscale scaling sweep --config=FILE --out=DIR --part=1/2
  bigscale scaling sweep --config=FILE --out=DIR --jobs=my.env
"""

import json
import pathlib
import sys

from bigscale.cli.common import part_of
from bigscale.cli.config_flags import ConfigFlags, config_of
from bigscale.spec import RunSpec

FLAGS = ConfigFlags()
FLAGS.heading("Runs")
FLAGS.define_config("Config of the sweep.")
FLAGS.address("out", None, "Folder of the sweep, or its address.")
FLAGS.list("only", [], "Names of runs or blocks to train. Default: all.")
FLAGS.string("part", "1/1", "K/N trains the K-th of N parts of the runs.")
FLAGS.bool(
  "anew",
  False,
  "Train runs again, in new folders, if they exist with other settings.",
)
FLAGS.heading("Instead of training")
FLAGS.local_path(
  "jobs",
  None,
  "Env file like launch/example.env. Writes an env file for launch/*.sh for "
  "each remaining run.",
)
FLAGS.bool("collect", False, "Only write the tables.")
FLAGS.heading("Output")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Trains the runs of a sweep, or writes its jobs or tables."""
  from bigscale.place.paths import path_of
  from bigscale.scaling import sweep
  from bigscale.spec import require

  require(not path, f"unexpected argument {path!r}; give --config={path}")
  FLAGS.require("config", "sweeps/stacked_mnist")
  config = config_of(FLAGS, {"base": RunSpec})
  out = path_of(FLAGS.require("out", "runs/sweep"))
  planned = sweep.expand(config)
  blocks = {block for run in planned for block in run.blocks}
  names = {run.name for run in planned}
  for name in FLAGS.only:
    require(
      name in names | blocks,
      f"--only={name} is neither a run nor a block; blocks: "
      f"{', '.join(sorted(blocks))}; runs: {', '.join(sorted(names))}",
    )
  share, parts = part_of(FLAGS.part)
  require(
    not FLAGS.collect or FLAGS.jobs is None,
    "--collect writes tables and --jobs writes jobs; give one of them",
  )

  from bigscale.scaling import collect, folders, jobs, runs

  placed = folders.place(out, planned, anew=FLAGS.anew)
  for note in placed.notes:
    print(note, file=sys.stderr, flush=True)
  folders.remember(out, placed.runs)
  wanted = set(FLAGS.only) or blocks
  chosen = [run for run in placed.runs if wanted & {run.name, *run.blocks}]
  chosen = runs.part(chosen, share, parts)
  if FLAGS.jobs is not None:
    left = [run for run in chosen if not runs.is_over(out, run)]
    for env in jobs.write_jobs(out, left, pathlib.Path(FLAGS.jobs)):
      print(env)
    return 0
  failed = 0 if FLAGS.collect else _run(out, chosen)
  rows = collect.write_tables(out, placed.runs, placed.dropped)
  _report(rows, len(planned), out)
  return 1 if failed else 0


def _run(out: pathlib.Path, chosen: list) -> int:
  """Trains the runs and returns the number of failed runs."""
  import jax

  from bigscale.place import is_remote
  from bigscale.scaling import runs

  # Shares compiled programs between the parts and with the next start.
  if not is_remote(out):
    jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
  failed = 0
  for run, outcome in runs.Runner(out).run(chosen):
    line = f"{run.name}: {outcome.status} {outcome.why}".rstrip()
    print(line, file=sys.stderr, flush=True)
    failed += outcome.status == "failed"
  return failed


def _report(rows: list, planned: int, out: pathlib.Path) -> None:
  """Prints the results of the runs."""
  if FLAGS.json:
    print(json.dumps({"planned": planned, "runs": rows}, indent=2))
    return
  for row in rows:
    if row.get("missing_scores"):
      print(
        f"{row['run']} has no {row['missing_scores']}; see score_failed in its "
        "events.jsonl",
        file=sys.stderr,
      )
  named = [row["status"] for row in rows if row["in_config"] == "yes"]
  counts = {status: named.count(status) for status in dict.fromkeys(named)}
  summary = ", ".join(f"{count} {status}" for status, count in counts.items())
  dropped = len(rows) - len(named)
  more = f"; {dropped} more with in_config=no" if dropped else ""
  print(
    f"{planned} runs: {summary or 'none started'}{more}; {out / 'runs.csv'}"
  )
