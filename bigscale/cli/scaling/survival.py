r"""Analyze when runs collapse, at each value of a column.

Example:
  bigscale scaling survival runs.csv --x=dataset_images --where=blocks~images

The table is a CSV file with a header and a row per run. Prints the share of
runs that collapse (Kaplan-Meier), the median time of collapse, a test for a
trend and a Weibull fit, with 95% intervals. Runs that did not collapse count as
survivors until their end. Runs that failed or are still running are listed but
not counted.
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
FLAGS.string(
  "time", "collapsed_step", "Column with the time at which a run collapsed."
)
FLAGS.string(
  "until", "steps", "Column with the length of a run, in the unit of --time."
)
FLAGS.multi_string("where", [], CONDITION)
FLAGS.integer("resamples", 4000, "Number of permutations in the trend test.")
FLAGS.integer("seed", 0, "Seed of the permutations.")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints the analysis."""
  from bigscale.scaling import survival
  from bigscale.spec import require

  require(
    bool(path),
    "scaling survival needs a table: bigscale scaling survival RUNS.csv "
    "--x=...",
  )
  found = survival.survival(
    path,
    FLAGS.require("x", "dataset_images"),
    status=FLAGS.require("status", "status"),
    time=FLAGS.require("time", "collapsed_step"),
    until=FLAGS.require("until", "steps"),
    where=FLAGS.where,
    permutations=FLAGS.resamples,
    seed=FLAGS.seed,
  )
  if FLAGS.json:
    levels = [one._asdict() for one in found.levels]
    fit = found.weibull and found.weibull._asdict()
    record = found._asdict() | {"levels": levels, "weibull": fit}
    print(json.dumps(record, indent=2))
    return 0
  print(survival.as_text(found))
  return 0
