"""Flags and fitting shared by the subcommands that read a table of runs."""

import typing

from bigscale.cli.common import CONDITION
from bigscale.cli.flags import Flags
from bigscale.scaling import analysis, table
from bigscale.scaling.analysis import Settings, Study
from bigscale.scaling.fit import DeltaUnit, Loss
from bigscale.scaling.rows import number
from bigscale.scaling.table import Columns
from bigscale.spec import SpecError, require


def define_columns(values: Flags) -> None:
  """Defines the flags that `columns_of` reads."""
  values.heading("Columns")
  values.fields(
    Columns,
    x="Column of the first variable.",
    x2="Column of the second variable, or flops/6x for FLOPS / (6 X).",
    y="Column of the score that the law predicts; lower is better, like FID.",
    flops="Column of the compute. Default: x, or x times x2.",
    group="Column with the name of the run. The bootstrap resamples runs.",
    status="Column with the status of the run: done, collapsed (y is an upper "
    "bound), failed or running.",
  )
  values.heading("Rows")
  values.multi_string("where", [], CONDITION)
  values.fields(
    Columns,
    drop_missing="Exclude finished rows in which y or a variable is missing: "
    "empty, nan, NA, None or null.",
    decimal_comma="Numbers in the table are written like 1,5.",
    drop_worst="Number of finished rows to exclude, those with the highest y.",
  )
  values.list(
    "protocol",
    [],
    "Columns that must have the same value in all rows, like fid_samples. The "
    "result records the values.",
  )
  values.list(
    "best_over",
    [],
    "Tuned columns, like g_lr. At each x and x2, fits only the runs with the "
    "best values of these columns.",
  )


def columns_of(values: Flags) -> Columns:
  """Returns the columns that the flags name."""
  values.require("x", "params")
  values.require("y", "fid")
  return Columns(
    **values.fields_of(Columns)
    | {
      name: tuple(values[name].value)
      for name in ("where", "protocol", "best_over")
    }
  )


def define_flags(values: Flags) -> None:
  """Defines the flags that `study` reads."""
  define_columns(values)
  values.heading("Fit")
  values.string(
    "floor",
    "free",
    "The constant E: free (fitted), none (0), or a number, like the FID of "
    "real images against real images.",
  )
  values.fields(
    Settings,
    resamples="Number of bootstrap resamples.",
    seed="Seed of the bootstrap.",
    choices="Also fit other floors, and judge floors and cuts of the first "
    "rows of runs by forecasts of held-out runs. Takes longer.",
    resample_by="What the bootstrap resamples: runs, or sizes (values of x) "
    "and then the runs of each.",
  )
  values.fields(
    Loss, delta="Threshold of the Huber loss, in units of --delta_unit."
  )
  values.enum(
    "delta_unit",
    Loss.unit,
    typing.get_args(DeltaUnit),
    "scale: the mean absolute log residual. log: units of log y.",
  )


def study(values: Flags, path: str, what: str) -> Study:
  """Fits the law that the flags describe.

  Args:
    values: the parsed flags.
    path: path of a table of runs.
    what: the subcommand, for messages.

  Raises:
    SpecError: a flag or the table is invalid, or the fit fails.
  """
  require(
    bool(path),
    f"scaling {what} needs a table: bigscale scaling {what} RUNS.csv --x=... "
    "--y=...",
  )
  settings = Settings(
    **values.fields_of(Settings)
    | {
      "floor": _floor(values.floor),
      "loss": Loss(values.delta, values.delta_unit),
    }
  )
  return analysis.study(table.select(path, columns_of(values)), settings)


def _floor(given: str) -> float | None:
  named = {"free": None, "none": 0.0}
  if given in named:
    return named[given]
  found = number(given)
  if found is None:
    raise SpecError(
      f"--floor={given} must be free, none or a number of at least 0"
    )
  return found
