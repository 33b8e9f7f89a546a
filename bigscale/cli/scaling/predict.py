r"""Forecast a score at sizes and lengths beyond the runs of a table.

Example:
  bigscale scaling predict curves.csv --x=parameters --x2=images --y=fid \
      --group=run --status=status --at=parameters=1e9,images=1e9

Prints the median and the 50% and 90% intervals of a new run, how well runs that
were held out would have been forecast, and warnings, such as that no check
reaches as far as the forecast. See docs/reference/laws.md.

More examples:
  bigscale scaling predict curves.csv --x=parameters --x2=images --y=fid \
      --group=run --floor=1.87 --mean_of=3 \
      --at=parameters=1e8,images=1e8 --at=parameters=1e9,images=1e9 --json
"""

import json
import math

from bigscale.cli.flags import Flags
from bigscale.cli.scaling import law

FLAGS = Flags()
FLAGS.heading("Forecast")
FLAGS.multi_string(
  "at",
  [],
  "Where to forecast: X=VALUE,X2=VALUE, with the names of the columns.",
)
FLAGS.integer(
  "mean_of",
  1,
  "Forecast the mean of this many new runs. 0 forecasts the curve itself.",
)
law.define_columns(FLAGS)
FLAGS.heading("Fit")
FLAGS.float("floor", None, "Measured score of reals against reals.")
FLAGS.integer("seed", 0, "Seed of the draws.")
FLAGS.heading("Output")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints the forecasts."""
  from bigscale.scaling import table
  from bigscale.scaling.forecast import predict
  from bigscale.spec import require

  require(
    bool(path),
    "scaling predict needs a table: bigscale scaling predict RUNS.csv --x=... "
    "--x2=... --y=... --at=...",
  )
  columns = law.columns_of(FLAGS)
  require(
    bool(columns.x2),
    "--x2 is not set; a forecast needs the images as well, like --x2=images",
  )
  require(
    columns.x != columns.x2,
    f"--x and --x2 are both {columns.x}; name the size and the images",
  )
  require(
    FLAGS.floor is None or (math.isfinite(FLAGS.floor) and FLAGS.floor > 0),
    f"--floor={FLAGS.floor} must be a positive number; omit it if the score of "
    "reals against reals was not measured",
  )
  require(
    FLAGS.mean_of >= 0,
    f"--mean_of={FLAGS.mean_of} must be 0 (the curve) or a number of runs",
  )
  at = [_place(text, columns.x, columns.x2) for text in FLAGS.at]
  require(
    bool(at),
    f"--at is not set; write --at={columns.x}=VALUE,{columns.x2}=VALUE",
  )
  found = predict.predict(
    table.select(path, columns),
    at,
    floor=FLAGS.floor,
    mean_of=FLAGS.mean_of,
    seed=FLAGS.seed,
  )
  found = {"table": path, **found}
  print(json.dumps(found, indent=2) if FLAGS.json else predict.as_text(found))
  return 0


def _place(text: str, x: str, x2: str) -> tuple[float, float]:
  """Returns the values of x and x2 that one --at names.

  Raises:
    SpecError: a value is missing or not a positive number.
  """
  from bigscale.scaling.rows import number
  from bigscale.spec import SpecError

  given = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
  values = [number(given.get(name, "").strip()) for name in (x, x2)]
  if (
    set(given) != {x, x2}
    or None in values
    or not all(value > 0 and math.isfinite(value) for value in values)
  ):
    raise SpecError(
      f"--at={text} must be {x}=VALUE,{x2}=VALUE with positive numbers"
    )
  return values[0], values[1]
