"""Count the runs that collapsed at each value of a column.

  bigscale scaling shares runs.csv --x=dataset_images --where=blocks~images

Reads a CSV file with a header, one row a run. Intervals are 95%; runs that
failed or still run are named and not counted.
"""

import json

from absl import flags

from bigscale.cli.common import require_flag
from bigscale.cli.scaling.law import WHERE

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "x", None, "column of what runs differ in", flag_values=FLAGS
)
flags.DEFINE_string(
  "status",
  "status",
  "column of done, collapsed, failed, running",
  flag_values=FLAGS,
)
flags.DEFINE_multi_string("where", [], WHERE, flag_values=FLAGS)
flags.DEFINE_integer(
  "resamples",
  4000,
  "permutations of the test for a trend",
  flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "of the permutations", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "print JSON", flag_values=FLAGS)


def run(path: str = "") -> int:
  """Counts and prints."""
  from bigscale.scaling import shares
  from bigscale.spec import require

  require(
    bool(path),
    "scaling shares of what? Use: bigscale scaling shares RUNS.csv --x=...",
  )
  found = shares.shares(
    path,
    require_flag(FLAGS, "x", "dataset_images"),
    status=require_flag(FLAGS, "status", "status"),
    where=FLAGS.where,
    permutations=FLAGS.resamples,
    seed=FLAGS.seed,
  )
  if FLAGS.json:
    levels = [one._asdict() for one in found.levels]
    print(json.dumps(found._asdict() | {"levels": levels}, indent=2))
    return 0
  print(shares.as_text(found))
  return 0
