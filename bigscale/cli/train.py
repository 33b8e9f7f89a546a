r"""Train a GAN, or resume a run.

Example:
  bigscale train --config=fashion_r3gan --workdir=runs/fashion

The same command on the same folder resumes the run from its newest checkpoint.

A config is a Python file with a function `get_config`. --config=FILE:ARG calls
`get_config(ARG)`. --config.NAME=VALUE overrides any field; `bigscale config`
lists the fields.

More examples:

Train longer, at another learning rate:
  bigscale train --config=fashion_r3gan --workdir=runs/longer \
      --config.total_kimg=500 --config.optim.g_lr.first=1e-3

Start from the weights of another run:
  bigscale train --config=fashion_r3gan --workdir=runs/second \
      --init_from=runs/fashion

Resume after the data have moved:
  bigscale train --config=my_config.py --workdir=runs/mine --data=/new/place

Resume with another batch size:
  bigscale train --config=my_config.py --workdir=runs/mine --change \
      --config.global_batch_size=512

Train in several processes, which Cloud TPU, GKE and SLURM connect without
flags:
  bigscale train --config=FILE --workdir=SHARED_FOLDER \
      --coordinator=HOST:8476 --num_processes=2 --process_id=0

Processes wait for each other for $BIGSCALE_START_TIMEOUT seconds (default:
300). --local_processes=N starts N processes on this machine.
--local_processes=1 supervises the one process of a host in a run with many
hosts. The exit code then says whether to start the process again, even if it
was killed. The exit code is 1 (do not restart) if the last three starts were
killed or hung without reaching a new step.
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
FLAGS.heading("Run")
FLAGS.define_config("Config of the run.")
FLAGS.address(
  "workdir",
  None,
  "Folder of the run, or a gs:// or s3:// address. Created if missing.",
)
FLAGS.address(
  "init_from",
  None,
  "Folder or address of another run of the same model. A new run starts "
  "from that run's newest weights and moving average, with new optimizer "
  "states. Ignored when a run resumes.",
)
FLAGS.local_path(
  "executable",
  None,
  "File of the compiled step, written by bigscale compile. Default: "
  "step.executable in the run's folder, if it exists.",
)
FLAGS.heading("Resume with changes")
FLAGS.bool(
  "change",
  False,
  "Allow a resumed run to change its batch size, learning rates, other "
  "optimizer settings or moving average. The change is recorded in the run's "
  "folder. Settings that do not affect the training results can always change.",
)
FLAGS.bool(
  "accept_data",
  False,
  "Resume although the content of the data has changed. The records must be "
  "the same, except for some that were repaired or damaged.",
)
define_data_flag(FLAGS)
FLAGS.heading("Processes and devices of this machine")
FLAGS.integer(
  "virtual_devices",
  0,
  "Number of devices to split this machine's CPU into, to try out a mesh.",
  lower_bound=0,
)
FLAGS.integer(
  "local_processes",
  0,
  "Number of processes to start on this machine. This process supervises them.",
  lower_bound=0,
)
define_process_flags(FLAGS)


def run() -> int:
  """Trains and writes the report."""
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
    executable=FLAGS.executable,
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
  """Runs this command in child processes and supervises them."""
  from bigscale.parallel.local import run_locally
  from bigscale.spec import require
  from bigscale.train.lives import Life

  require(
    processes == 1
    or FLAGS.coordinator is FLAGS.num_processes is FLAGS.process_id is None,
    f"--local_processes={processes} connects its processes itself; omit "
    "--coordinator, --num_processes and --process_id",
  )
  # Report an invalid config once, not once per process.
  spec_of(FLAGS)
  life = Life(FLAGS.require("workdir", "runs/first"))
  # If a flag is given twice, the last value counts.
  words = [*sys.argv, "--local_processes=0"]
  program = [sys.executable, "-m", "bigscale.cli.main", *words]
  environ = dict(os.environ)
  # This process set PJRT_NPROC for itself; its children may need more.
  threads = max(int(environ["PJRT_NPROC"]), 2 * FLAGS.virtual_devices)
  environ["PJRT_NPROC"] = f"{threads}"
  code, why = life.end(*run_locally(program, processes, environ))
  if why:
    print(f"bigscale: {why}", file=sys.stderr)
  return code
