r"""Train a GAN; started again on the same folder, it resumes.

  bigscale train --config=fashion_r3gan --workdir=runs/fashion
  bigscale train --config=fashion_r3gan --workdir=runs/longer \
      --config.total_kimg=500 --config.optim.g_lr.first=1e-3
  bigscale train --config=fashion_r3gan --workdir=runs/second \
      --init_from=runs/fashion
  bigscale train --config=my_config.py --workdir=runs/mine --data=/new/place
  bigscale train --config=my_config.py --workdir=runs/mine --change \
      --config.global_batch_size=512

Several processes make one run where each is told of the others, or where
a Cloud TPU, GKE or SLURM tells them:

  bigscale train --config=FILE --workdir=SHARED_FOLDER \
      --coordinator=HOST:8476 --num_processes=2 --process_id=0

They wait for each other for $BIGSCALE_START_TIMEOUT seconds, 300 by default.
`--local_processes=N` starts N of them on this machine. With 1 it watches over
the one process that a host has in a run of many hosts: however that ends, the
exit code says whether to start it again. After three starts in a row that were
killed or hung and came to no new step it says 1: do not.

A config is a Python file with a function `get_config`; any value in it can be
set with --config.NAME=VALUE. `--config=FILE:ARG` calls `get_config(ARG)`.
"""

import os
import sys

from bigscale.cli.common import (
  define_data_flag,
  define_process_flags,
  join_processes,
)
from bigscale.cli.config_flags import ConfigFlags, spec_of

FLAGS = ConfigFlags()
FLAGS.define_config("the run's config file")
FLAGS.local_path("workdir", None, "folder of the run, made if need be")
FLAGS.local_path(
  "init_from",
  None,
  "folder of another run of the same model: a new run starts from its newest "
  "weights and average, with fresh optimizers; a run that resumes ignores it",
)
FLAGS.integer(
  "virtual_devices",
  0,
  "split this machine's CPU into so many devices, to try a mesh without one",
  lower_bound=0,
)
FLAGS.integer(
  "local_processes",
  0,
  "run in so many processes of this machine, watched over by this one",
  lower_bound=0,
)
FLAGS.bool(
  "change",
  False,
  "a run that resumes may go on with another batch size, other rates of the "
  "optimizers or averages than it began with; that is written into the run. "
  "Settings that change no number may differ without it",
)
FLAGS.bool(
  "accept_data",
  False,
  "a run that resumes goes on although the content of its data has changed: "
  "the same records, some of them mended or damaged",
)
define_data_flag(FLAGS)
define_process_flags(FLAGS)


def run() -> int:
  """Trains, then writes the report."""
  from bigscale.parallel.environment import prepare_cpu
  from bigscale.parallel.local import heed_supervisor

  if FLAGS.local_processes:
    return _run_locally(FLAGS.local_processes)
  heed_supervisor()
  if FLAGS.virtual_devices:
    prepare_cpu(FLAGS.virtual_devices)
  spec = spec_of(FLAGS)
  workdir = FLAGS.require("workdir", "runs/first")

  from bigscale.data.shown import shown
  from bigscale.parallel import multihost
  from bigscale.report import write_report
  from bigscale.train.loop import train

  join_processes(FLAGS)
  result = train(
    spec,
    workdir,
    sys.argv,
    FLAGS.init_from,
    data=FLAGS.data,
    change=FLAGS.change,
    accept_data=FLAGS.accept_data,
  )
  if multihost.is_main():
    report = write_report(result.folder.path)
    for name, score in result.scores.items():
      print(f"{shown(name)}: {score:.4g}")
    for name, why in result.failed.items():
      print(f"{shown(name)}: missing: {shown(why)}")
    print(f"samples: {result.folder.samples(int(result.state.step))}")
    print(f"report:  {report}")
  return 0


def _run_locally(processes: int) -> int:
  """Starts this command again, as each of the processes."""
  from bigscale.parallel.local import run_locally
  from bigscale.spec import require
  from bigscale.train.lives import Life

  require(
    processes == 1
    or FLAGS.coordinator is FLAGS.num_processes is FLAGS.process_id is None,
    f"--local_processes={processes} tells its processes of each other; leave "
    "--coordinator, --num_processes and --process_id out",
  )
  # Whatever is wrong with the config is better said once.
  spec_of(FLAGS)
  life = Life(FLAGS.require("workdir", "runs/first"))
  # Of a flag that is given twice, the last one counts.
  words = [*sys.argv, "--local_processes=0"]
  program = [sys.executable, "-m", "bigscale.cli.main", *words]
  environ = dict(os.environ)
  # What this process has set for itself may be too little for theirs.
  threads = max(int(environ["PJRT_NPROC"]), 2 * FLAGS.virtual_devices)
  environ["PJRT_NPROC"] = f"{threads}"
  code, why = life.end(*run_locally(program, processes, environ))
  if why:
    print(f"bigscale: {why}", file=sys.stderr)
  return code
