"""Write a run's report.html: curves, sample grids, scores and settings.

Example:
  bigscale report --workdir=runs/fashion

The run may be finished, still running or interrupted. The command reads only
the run's folder. It writes nothing to a run on a bucket.
"""

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.address("workdir", None, "Folder of the run, or its address.")


FLAGS.address(
  "out",
  None,
  "File to write, or its address. Default: report.html in the run's folder, or "
  "in this folder if the run is on a bucket.",
)


def run() -> int:
  """Writes the page and prints its path."""
  from bigscale.place import is_remote
  from bigscale.report import FILE, write_report

  workdir = FLAGS.require("workdir", "runs/a")
  out = FLAGS.out or (FILE if is_remote(workdir) else None)
  print(write_report(workdir, out))
  return 0
