"""The flags that `fit` and `report` share, and the law that they ask for."""

import typing

from bigscale.cli.flags import Flags
from bigscale.scaling import analysis, table
from bigscale.scaling.analysis import Settings, Study
from bigscale.scaling.fit import DeltaUnit, Loss
from bigscale.scaling.rows import CONDITIONS, number
from bigscale.scaling.table import Columns
from bigscale.spec import SpecError, require


def define_flags(values: Flags) -> None:
  """Defines which columns mean what, and how to fit."""
  values.fields(
    Columns,
    x="column of the first variable",
    x2="column of the second, or flops/6x for FLOPS / (6 X)",
    y="column of what falls, as FID",
    flops="column of compute; x, or x times x2, stands for it if not given",
    group="column of the id of the trained run; the bootstrap draws these",
    status="column of done, collapsed (y is then an upper bound), failed, "
    "running",
    drop_worst="leave out this many finished rows with the highest y",
  )
  values.multi_string("where", [], CONDITIONS)
  values.list(
    "protocol",
    [],
    "columns in which all rows must agree, as fid_samples; recorded",
  )
  values.string(
    "floor",
    "free",
    "E: free, none, or a number, as the FID of reals against reals",
  )
  values.fields(
    Settings, resamples="resamples of the bootstrap", seed="of the resamples"
  )
  values.fields(Loss, delta="of the Huber loss, in --delta_unit")
  values.enum(
    "delta_unit",
    Loss.unit,
    typing.get_args(DeltaUnit),
    "scale, the mean absolute log residual; or log, of log y",
  )


def study(values: Flags, path: str, what: str) -> Study:
  """Fits the law that the flags ask for.

  Args:
    values: what was asked.
    path: of a runs table.
    what: the subcommand, for messages.

  Raises:
    SpecError: a flag, the table or the fit is refused.
  """
  require(
    bool(path),
    f"scaling {what} of what? Use: bigscale scaling {what} RUNS.csv --x=... "
    "--y=...",
  )
  values.require("x", "params")
  values.require("y", "fid")
  columns = Columns(
    **values.fields_of(Columns)
    | {"where": tuple(values.where), "protocol": tuple(values.protocol)}
  )
  settings = Settings(
    **values.fields_of(Settings)
    | {
      "floor": _floor(values.floor),
      "loss": Loss(values.delta, values.delta_unit),
    }
  )
  return analysis.study(table.select(path, columns), settings)


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
