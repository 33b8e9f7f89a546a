"""Compute the fraction of collapsed runs at each value of a column.

Example:
  bigscale scaling shares runs.csv --x=dataset_images --where=blocks~images

The table is a CSV file with a header and a row per run. The intervals are 95%
intervals. Runs that failed or are still running are listed but not counted.
"""

import json

from bigscale.cli.common import CONDITION
from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.string("x", None, "Column in which the runs differ.")
FLAGS.string(
  "status",
  "status",
  "Column with the status of the run: done, collapsed, failed or running.",
)
FLAGS.multi_string("where", [], CONDITION)
FLAGS.integer("resamples", 4000, "Number of permutations in the trend test.")
FLAGS.integer("seed", 0, "Seed of the permutations.")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints the fraction of collapsed runs."""
  from bigscale.scaling import shares
  from bigscale.spec import require

  require(
    bool(path),
    "scaling shares needs a table: bigscale scaling shares RUNS.csv --x=...",
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
