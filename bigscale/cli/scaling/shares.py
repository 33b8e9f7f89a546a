"""Count the runs that collapsed at each value of a column.

  bigscale scaling shares runs.csv --x=dataset_images --where=blocks~images

Reads a CSV file with a header, one row a run. Intervals are 95%; runs that
failed or still run are named and not counted.
"""

import json

from bigscale.cli.flags import Flags
from bigscale.scaling.rows import CONDITIONS

FLAGS = Flags()
FLAGS.string("x", None, "column of what runs differ in")
FLAGS.string("status", "status", "column of done, collapsed, failed, running")
FLAGS.multi_string("where", [], CONDITIONS)
FLAGS.integer("resamples", 4000, "permutations of the test for a trend")
FLAGS.integer("seed", 0, "of the permutations")
FLAGS.bool("json", False, "print JSON")


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
    FLAGS.require("x", "dataset_images"),
    status=FLAGS.require("status", "status"),
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
