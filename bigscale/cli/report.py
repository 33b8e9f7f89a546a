"""Write a run's report.html: curves, sample grids, scores and settings.

Example:
  bigscale report --workdir=runs/fashion

The run may be finished, still running or interrupted. The command reads only
the run's folder.
"""

import pathlib

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.local_path("workdir", None, "Folder of the run.")


def run() -> int:
  """Writes the page and prints its path."""
  from bigscale.report import write_report

  print(write_report(pathlib.Path(FLAGS.require("workdir", "runs/a"))))
  return 0
