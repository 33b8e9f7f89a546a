"""Write a run's report.html: curves, sample grids, scores, settings.

  bigscale report --workdir=runs/fashion

Works on finished, running and broken-off runs; needs only the run's folder.
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a run", flag_values=FLAGS)


def run() -> int:
  """Writes the page and prints where it is."""
  from bigscale.cli.common import require_flag
  from bigscale.report import write_report

  print(write_report(pathlib.Path(require_flag(FLAGS, "workdir", "runs/a"))))
  return 0
