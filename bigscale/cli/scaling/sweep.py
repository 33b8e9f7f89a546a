r"""Run the runs of a sweep and write their tables.

  bigscale scaling sweep --config=sweeps/stacked_mnist --out=DIR
  bigscale scaling sweep --config=FILE --out=DIR --part=1/2
  bigscale scaling sweep --config=FILE --out=DIR --jobs=my.env

Runs what the config spans (`bigscale.scaling.sweep`), one run after the other,
each in DIR/runs, and writes DIR/runs.csv, a row a run, and DIR/curves.csv, a
row an evaluation. Runs that are done or collapsed are not run again, others go
on: stop it and start it at will, or start several with `--part`. `--jobs` runs
nothing: for each run that is left it writes its config and an env file to be
started by launch/*.sh, and prints that file's name; my.env is like
launch/example.env. `--collect` only writes the tables.

Tables say what each run was by its own spec.json. Where a folder holds a run of
other settings than the config gives, nothing is run and the settings are named;
`--anew` runs such a run again in a new folder and keeps the old one. Runs that
the config does not name any more stay in the tables, marked in_config=no.
"""

import json
import pathlib
import sys

from bigscale.cli.common import part_of
from bigscale.cli.config_flags import ConfigFlags, config_of
from bigscale.spec import RunSpec

FLAGS = ConfigFlags()
FLAGS.define_config("the sweep's config file")
FLAGS.local_path("out", None, "folder of the runs")
FLAGS.list("only", [], "names of runs or blocks; others wait")
FLAGS.string("part", "1/1", "K/N runs the K-th of N parts")
FLAGS.local_path(
  "jobs",
  None,
  "env file for launch/*.sh; write such a file for each run, run none",
)
FLAGS.bool("collect", False, "run nothing, write the tables")
FLAGS.bool(
  "anew", False, "run again, in a new folder, what was run with other settings"
)
FLAGS.bool("json", False, "print JSON")


def run(path: str = "") -> int:
  """Runs a sweep, or says what came of one."""
  from bigscale.scaling import sweep
  from bigscale.spec import require

  require(not path, f"scaling sweep takes no path; use --config={path}")
  FLAGS.require("config", "sweeps/stacked_mnist")
  config = config_of(FLAGS, {"base": RunSpec})
  out = pathlib.Path(FLAGS.require("out", "runs/sweep"))
  planned = sweep.expand(config)
  blocks = {block for run in planned for block in run.blocks}
  names = {run.name for run in planned}
  for name in FLAGS.only:
    require(
      name in names | blocks,
      f"--only={name} is no run and no block; blocks: "
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
  """Runs them; says how many failed."""
  import jax

  from bigscale.scaling import runs

  # Several parts, and the next start, find the programs compiled.
  jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
  failed = 0
  for run, outcome in runs.Runner(out).run(chosen):
    said = f"{run.name}: {outcome.status} {outcome.why}".rstrip()
    print(said, file=sys.stderr, flush=True)
    failed += outcome.status == "failed"
  return failed


def _report(rows: list, planned: int, out: pathlib.Path) -> None:
  """What came of the runs."""
  if FLAGS.json:
    print(json.dumps({"planned": planned, "runs": rows}, indent=2))
    return
  for row in rows:
    if row.get("missing_scores"):
      print(
        f"{row['run']} ended without {row['missing_scores']}: its events.jsonl "
        "says why (score_failed)",
        file=sys.stderr,
      )
  named = [row["status"] for row in rows if row["in_config"] == "yes"]
  counts = {status: named.count(status) for status in dict.fromkeys(named)}
  told = ", ".join(f"{count} {status}" for status, count in counts.items())
  dropped = len(rows) - len(named)
  more = f"; {dropped} more with in_config=no" if dropped else ""
  print(f"{planned} runs: {told or 'none begun'}{more}; {out / 'runs.csv'}")
