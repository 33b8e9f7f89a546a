r"""Run sweeps, fit and draw scaling laws, count collapses, measure noise.

  bigscale scaling sweep --config=configs/sweeps/stacked_mnist.py --out=DIR
  bigscale scaling sweep --config=FILE --out=DIR --part=1/2
  bigscale scaling sweep --config=FILE --out=DIR --jobs=my.env

`sweep` runs what its config spans (`bigscale.scaling.sweep`), one run after
the other, each in DIR/runs, and writes DIR/runs.csv, a row a run, and
DIR/curves.csv, a row an evaluation. Runs that are done or collapsed are not run
again, others go on: stop it and start it at will, or start several with
`--part`. `--jobs` runs nothing: for each run that is left it writes its config
and an env file to be started by launch/*.sh, and prints that file's name;
my.env is like launch/example.env. `--collect` only writes the tables.

  bigscale scaling fit runs.csv --x=params --x2=images --y=fid --group=run \
      --status=status --floor=1.87
  bigscale scaling fit runs.csv --x=flops --y=fid --group=run --json
  bigscale scaling fit chinchilla.csv --x='Model Size' --x2=flops/6x \
      --flops='Training FLOP' --y=loss --drop_worst=5

`fit` reads a CSV file with a header, one row a run or a checkpoint of a run,
and fits y = E + A x^-alpha, with --x2 also + B x2^-beta. It prints parameters
with standard errors and 95% intervals, the compute-optimal split, how well
forms of law fitted to smaller runs predict larger ones, and every row that was
left out or is a bound. See docs/scaling.md.

  bigscale scaling report runs.csv --x=params --x2=images --y=fid --group=run \
      --out=law.png

`report` takes what `fit` takes and draws the law over its runs.

  bigscale scaling shares runs.csv --x=dataset_images --where=blocks~images

`shares` counts the runs that collapsed at each value of a column, with 95%
intervals; runs that failed or still run are named and not counted.

  bigscale scaling noise runs/first --windows=4

`noise` prints the gradient noise scale of D and of G, in images, over parts of
a run with log.noise_scale=True.
"""

import json
import math
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

if TYPE_CHECKING:
  from bigscale.scaling.analysis import Study

FLAGS = flags.FlagValues()
MAX_ARGUMENTS = 2
flags.DEFINE_bool("json", False, "print JSON", flag_values=FLAGS)
flags.DEFINE_string(
  "out",
  None,
  "fit: also write the JSON to this file; report: the drawing; sweep: folder "
  "of the runs",
  flag_values=FLAGS,
)
config_flags.DEFINE_config_file(
  "config", help_string="sweep: its config file", flag_values=FLAGS
)
flags.DEFINE_list(
  "only", [], "sweep: names of runs or blocks; others wait", flag_values=FLAGS
)
flags.DEFINE_string(
  "part", "1/1", "sweep: K/N runs the K-th of N parts", flag_values=FLAGS
)
flags.DEFINE_string(
  "jobs",
  None,
  "sweep: env file for launch/*.sh; write such a file for each run, run none",
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "collect", False, "sweep: run nothing, write the tables", flag_values=FLAGS
)
flags.DEFINE_string(
  "x",
  None,
  "fit: column of the first variable; shares: column",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "x2",
  "",
  "fit: column of the second, or flops/6x for FLOPS / (6 X)",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "y", None, "fit: column of what falls, as FID", flag_values=FLAGS
)
flags.DEFINE_string(
  "flops",
  "",
  "fit: column of compute; x, or x times x2, stands for it if not given",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "group",
  "",
  "fit: column of the id of the trained run; the bootstrap draws these",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "status",
  "",
  "fit: column of done, collapsed (y is then an upper bound), failed, running",
  flag_values=FLAGS,
)
flags.DEFINE_multi_string(
  "where",
  [],
  "fit: COLUMN=VALUE, or with != < <= > >=, or COLUMN~WORD of several; may be "
  "repeated, all must hold",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "drop_worst",
  0,
  "fit: leave out this many finished rows with the highest y",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "protocol",
  [],
  "fit: columns in which all rows must agree, as fid_samples; recorded",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "floor",
  "free",
  "fit: E: free, none, or a number, as the FID of reals against reals",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "resamples",
  4000,
  "fit, noise: resamples of the bootstrap; shares: permutations",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "seed", 0, "fit, noise, shares: of the resamples", flag_values=FLAGS
)
flags.DEFINE_float(
  "delta",
  1e-3,
  "fit: of the Huber loss, in --delta_unit",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "delta_unit",
  "scale",
  ("scale", "log"),
  "fit: scale, the mean absolute log residual; or log, of log y",
  flag_values=FLAGS,
)
flags.DEFINE_integer("windows", 1, "noise: parts of the run", flag_values=FLAGS)


def run(what: str = "", path: str = "") -> int:
  """Runs a sweep, or says what came of one."""
  from bigscale.spec import require

  commands = {
    "sweep": _sweep,
    "fit": _fit,
    "report": _draw,
    "shares": _shares,
    "noise": _noise,
  }
  require(
    what in commands,
    f"scaling {what!r} is unknown; use: bigscale scaling "
    f"{' | '.join(commands)}",
  )
  return commands[what](path)


def _fit(path: str) -> int:
  from bigscale.scaling import analysis, text

  found = {"table": path, **analysis.record(_study(path, "fit"))}
  if FLAGS.out:
    _write(FLAGS.out, found)
  print(json.dumps(found, indent=2) if FLAGS.json else text.as_text(found))
  return 0


def _draw(path: str) -> int:
  from bigscale.cli.common import require_flag
  from bigscale.scaling import figures

  out = pathlib.Path(require_flag(FLAGS, "out", "law.png"))
  figures.save(_study(path, "report"), out)
  print(out)
  return 0


def _study(path: str, what: str) -> "Study":
  """The law that the flags ask for."""
  from bigscale.cli.common import require_flag
  from bigscale.scaling import analysis, table
  from bigscale.scaling.fit import Loss
  from bigscale.spec import require

  require(
    bool(path),
    f"scaling {what} of what? Use: bigscale scaling {what} RUNS.csv --x=... "
    "--y=...",
  )
  columns = table.Columns(
    x=require_flag(FLAGS, "x", "params"),
    y=require_flag(FLAGS, "y", "fid"),
    x2=FLAGS.x2,
    flops=FLAGS.flops,
    group=FLAGS.group,
    status=FLAGS.status,
    where=tuple(FLAGS.where),
    drop_worst=FLAGS.drop_worst,
    protocol=tuple(FLAGS.protocol),
  )
  settings = analysis.Settings(
    floor=_floor(FLAGS.floor),
    resamples=FLAGS.resamples,
    seed=FLAGS.seed,
    loss=Loss(FLAGS.delta, FLAGS.delta_unit),
  )
  return analysis.study(table.select(path, columns), settings)


def _shares(path: str) -> int:
  from bigscale.cli.common import require_flag
  from bigscale.scaling import shares
  from bigscale.spec import require

  require(
    bool(path),
    "scaling shares of what? Use: bigscale scaling shares RUNS.csv --x=...",
  )
  found = shares.shares(
    path,
    require_flag(FLAGS, "x", "dataset_images"),
    status=FLAGS.status or "status",
    where=FLAGS.where,
    permutations=FLAGS.resamples,
    seed=FLAGS.seed,
  )
  if FLAGS.json:
    levels = [one._asdict() for one in found.levels]
    print(json.dumps(found._asdict() | {"levels": levels}, indent=2))
    return 0
  print(shares.as_text(found))
  return 0


def _sweep(path: str) -> int:
  from bigscale.cli.common import part_of, require_flag
  from bigscale.scaling import sweep
  from bigscale.spec import require

  require(not path, f"scaling sweep takes no path; use --config={path}")
  config = require_flag(FLAGS, "config", "configs/sweeps/stacked_mnist.py")
  out = pathlib.Path(require_flag(FLAGS, "out", "runs/sweep"))
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

  from bigscale.scaling import collect, jobs, runs

  wanted = set(FLAGS.only) or blocks
  chosen = [run for run in planned if wanted & {run.name, *run.blocks}]
  chosen = runs.part(chosen, share, parts)
  if FLAGS.jobs is not None:
    left = [run for run in chosen if not runs.is_over(out, run)]
    for env in jobs.write_jobs(out, left, pathlib.Path(FLAGS.jobs)):
      print(env)
    return 0
  failed = 0 if FLAGS.collect else _run(out, chosen)
  rows = collect.write_tables(out, planned)
  _report(rows, len(planned), out)
  return 1 if failed else 0


def _noise(path: str) -> int:
  from bigscale.report.read import read_run
  from bigscale.scaling.noise_scale import noise_scales
  from bigscale.spec import require

  require(
    bool(path), "scaling noise of what? Use: bigscale scaling noise runs/first"
  )
  found = noise_scales(
    read_run(pathlib.Path(path)).rows,
    windows=FLAGS.windows,
    resamples=FLAGS.resamples,
    seed=FLAGS.seed,
  )
  if FLAGS.json:
    # JSON has no infinity.
    finite = [
      {k: None if v == math.inf else v for k, v in one._asdict().items()}
      for one in found
    ]
    print(json.dumps(finite, indent=2))
    return 0
  print("     kimg         rows  noise scale, images (95% interval)")
  for one in found:
    span = f"{one.first_kimg:g} to {one.last_kimg:g}"
    scale = f"{one.noise_scale:.0f} ({one.low:.0f} to {one.high:.0f})"
    print(f"{one.player}    {span:12} {one.rows:4}  {scale}")
  return 0


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
  ended: dict[str, int] = {}
  for row in rows:
    ended[row["status"]] = ended.get(row["status"], 0) + 1
  if FLAGS.json:
    print(json.dumps({"planned": planned, "runs": rows}, indent=2))
    return
  told = ", ".join(f"{count} {status}" for status, count in ended.items())
  print(f"{planned} runs: {told or 'none begun'}; {out / 'runs.csv'}")


def _floor(given: str) -> float | None:
  from bigscale.spec import SpecError

  named = {"free": None, "none": 0.0}
  if given in named:
    return named[given]
  try:
    return float(given)
  except ValueError:
    raise SpecError(
      f"--floor={given} must be free, none or a number of at least 0"
    ) from None


def _write(out: str, found: dict) -> None:
  from bigscale.spec import SpecError
  from bigscale.train.folder import write_whole

  try:
    write_whole(pathlib.Path(out), json.dumps(found, indent=2) + "\n")
  except OSError as error:
    raise SpecError(
      f"--out={out} cannot be written ({error.strerror}); name a file"
    ) from None
