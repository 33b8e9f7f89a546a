"""The flags that `fit` and `report` share, and the law that they ask for."""

from typing import TYPE_CHECKING

from absl import flags

from bigscale.cli.common import require_flag

if TYPE_CHECKING:
  from bigscale.scaling.analysis import Study

WHERE = (
  "COLUMN=VALUE, or with != < <= > >=, or COLUMN~WORD of several; may be "
  "repeated, all must hold"
)


def define_flags(values: flags.FlagValues) -> None:
  """Which columns mean what, and how to fit."""
  _define_columns(values)
  flags.DEFINE_string(
    "floor",
    "free",
    "E: free, none, or a number, as the FID of reals against reals",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "resamples", 4000, "resamples of the bootstrap", flag_values=values
  )
  flags.DEFINE_integer("seed", 0, "of the resamples", flag_values=values)
  flags.DEFINE_float(
    "delta", 1e-3, "of the Huber loss, in --delta_unit", flag_values=values
  )
  flags.DEFINE_enum(
    "delta_unit",
    "scale",
    ("scale", "log"),
    "scale, the mean absolute log residual; or log, of log y",
    flag_values=values,
  )


def _define_columns(values: flags.FlagValues) -> None:
  for name, default, text in (
    ("x", None, "column of the first variable"),
    ("x2", "", "column of the second, or flops/6x for FLOPS / (6 X)"),
    ("y", None, "column of what falls, as FID"),
    (
      "flops",
      "",
      "column of compute; x, or x times x2, stands for it if not given",
    ),
    (
      "group",
      "",
      "column of the id of the trained run; the bootstrap draws these",
    ),
    (
      "status",
      "",
      "column of done, collapsed (y is then an upper bound), failed, running",
    ),
  ):
    flags.DEFINE_string(name, default, text, flag_values=values)
  flags.DEFINE_multi_string("where", [], WHERE, flag_values=values)
  flags.DEFINE_integer(
    "drop_worst",
    0,
    "leave out this many finished rows with the highest y",
    flag_values=values,
  )
  flags.DEFINE_list(
    "protocol",
    [],
    "columns in which all rows must agree, as fid_samples; recorded",
    flag_values=values,
  )


def study(values: flags.FlagValues, path: str, what: str) -> "Study":
  """The law that the flags ask for.

  Args:
    values: what was asked.
    path: of a runs table.
    what: the subcommand, for messages.

  Raises:
    SpecError: a flag, the table or the fit is refused.
  """
  from bigscale.scaling import analysis, table
  from bigscale.scaling.fit import Loss
  from bigscale.spec import require

  require(
    bool(path),
    f"scaling {what} of what? Use: bigscale scaling {what} RUNS.csv --x=... "
    "--y=...",
  )
  columns = table.Columns(
    x=require_flag(values, "x", "params"),
    y=require_flag(values, "y", "fid"),
    x2=values.x2,
    flops=values.flops,
    group=values.group,
    status=values.status,
    where=tuple(values.where),
    drop_worst=values.drop_worst,
    protocol=tuple(values.protocol),
  )
  settings = analysis.Settings(
    floor=_floor(values.floor),
    resamples=values.resamples,
    seed=values.seed,
    loss=Loss(values.delta, values.delta_unit),
  )
  return analysis.study(table.select(path, columns), settings)


def _floor(given: str) -> float | None:
  from bigscale.scaling.rows import number
  from bigscale.spec import SpecError

  named = {"free": None, "none": 0.0}
  if given in named:
    return named[given]
  found = number(given)
  if found is None:
    raise SpecError(
      f"--floor={given} must be free, none or a number of at least 0"
    )
  return found
