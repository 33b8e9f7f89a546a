r"""Plot a scaling law together with its runs.

Example:
  bigscale scaling report runs.csv --x=params --x2=images --y=fid --group=run \
      --out=law.png

The table is the same as for `bigscale scaling fit`.
"""

import pathlib

from bigscale.cli.flags import Flags
from bigscale.cli.scaling import law

FLAGS = Flags()
law.define_flags(FLAGS)
FLAGS.heading("Output")
FLAGS.local_path("out", None, "File to write: .png, .svg or .pdf.")


def run(path: str = "") -> int:
  """Fits a law and plots it."""
  from bigscale.scaling import figures

  out = pathlib.Path(FLAGS.require("out", "law.png"))
  figures.save(law.study(FLAGS, path, "report"), out)
  print(out)
  return 0
