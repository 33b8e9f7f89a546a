"""Write a run's report.html: curves, sample grids, scores, settings.

  bigscale report --workdir=runs/fashion

Works on finished, running and broken-off runs; needs only the run's folder.
"""

import pathlib

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.local_path("workdir", None, "folder of a run")


def run() -> int:
  """Writes the page and prints where it is."""
  from bigscale.report import write_report

  print(write_report(pathlib.Path(FLAGS.require("workdir", "runs/a"))))
  return 0
