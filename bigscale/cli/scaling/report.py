r"""Draw a scaling law over its runs.

  bigscale scaling report runs.csv --x=params --x2=images --y=fid --group=run \
      --out=law.png

Takes a table as `bigscale scaling fit` does.
"""

import pathlib

from bigscale.cli.flags import Flags
from bigscale.cli.scaling import law

FLAGS = Flags()
law.define_flags(FLAGS)
FLAGS.local_path("out", None, "the drawing: .png, .svg or .pdf")


def run(path: str = "") -> int:
  """Fits a law and draws it."""
  from bigscale.scaling import figures

  out = pathlib.Path(FLAGS.require("out", "law.png"))
  figures.save(law.study(FLAGS, path, "report"), out)
  print(out)
  return 0
