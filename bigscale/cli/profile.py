r"""Trace the next steps of a running run.

Example:
  bigscale profile --workdir=runs/fashion --steps=5

The run sees the request within some steps and 5 seconds (a minute on a bucket).
It writes the trace
into the run's folder, and the event `profile` names the place. To look at it:

  pip install xprof
  xprof --logdir=runs/fashion/profiles

`tensorboard --logdir` shows it too, with the same package. A config can name
the steps as well: --config.log.profile=100:104.
"""

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.address("workdir", None, "Folder of the run, or its address.")
FLAGS.integer("steps", 5, "Number of steps to trace.", lower_bound=1)


def run() -> int:
  """Writes the request."""
  from bigscale.place import open_place
  from bigscale.report.read import read_run
  from bigscale.spec import require
  from bigscale.spec.log import MAX_PROFILED_STEPS
  from bigscale.train import profiler

  workdir = FLAGS.require("workdir", "runs/first")
  require(
    FLAGS.steps <= MAX_PROFILED_STEPS,
    f"--steps={FLAGS.steps} must be {MAX_PROFILED_STEPS} or less; a trace of "
    "many steps takes gigabytes",
  )
  last = (read_run(workdir).events or [{}])[-1]
  ended = last.get("event") in ("done", "preempted", "lost")
  require(
    not ended,
    f"the run in {workdir} has ended (event {last.get('event')!r}); start it "
    "again, or name the steps with --config.log.profile=FIRST:LAST",
  )
  profiler.request(open_place(workdir), FLAGS.steps)
  print(
    f"requested: the next {FLAGS.steps} steps are traced into "
    f"{workdir}/{profiler.FOLDER}"
  )
  return 0
