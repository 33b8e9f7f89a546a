r"""Draw a scaling law over its runs.

  bigscale scaling report runs.csv --x=params --x2=images --y=fid --group=run \
      --out=law.png

Takes a table as `bigscale scaling fit` does.
"""

import pathlib

from absl import flags

from bigscale.cli.common import require_flag
from bigscale.cli.scaling import law

FLAGS = flags.FlagValues()
law.define_flags(FLAGS)
flags.DEFINE_string(
  "out", None, "the drawing: .png, .svg or .pdf", flag_values=FLAGS
)


def run(path: str = "") -> int:
  """Fits a law and draws it."""
  from bigscale.scaling import figures

  out = pathlib.Path(require_flag(FLAGS, "out", "law.png"))
  figures.save(law.study(FLAGS, path, "report"), out)
  print(out)
  return 0
