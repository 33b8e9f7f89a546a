"""Opens the trackers of a run's config."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from bigscale.spec import RunSpec, require, to_json
from bigscale.spec.named import is_path, load
from bigscale.train.trackers.table import csv_table, parquet_table
from bigscale.train.trackers.tracker import Background, Tracker
from bigscale.train.trackers.wandb import WeightsAndBiases


class _Kind(NamedTuple):
  """A tracker of this package.

  Attributes:
    open: opens it for a run's folder and spec.
    needs: package that it imports, or "".
    extra: extra of bigscale that installs the package.
  """

  open: Callable[[pathlib.Path, RunSpec], Tracker]
  needs: str = ""
  extra: str = ""


_KINDS = {
  "wandb": _Kind(
    lambda workdir, spec: WeightsAndBiases(workdir, to_json(spec)),
    "wandb",
    "wandb",
  ),
  "csv": _Kind(lambda workdir, spec: csv_table(workdir)),
  "parquet": _Kind(
    lambda workdir, spec: parquet_table(workdir), "pyarrow", "parquet"
  ),
}


def check(spec: RunSpec) -> None:
  """Checks that the run's trackers are known and installed.

  Raises:
    SpecError: a tracker is unknown, or its package is missing.
  """
  for name in spec.log.trackers:
    if is_path(name):
      load(name, "a tracker")
      continue
    require(
      name in _KINDS,
      f"log.trackers contains {name!r}; use {', '.join(_KINDS)}, or "
      "package.module:Name",
    )
    kind = _KINDS[name]
    require(
      not kind.needs or importlib.util.find_spec(kind.needs) is not None,
      f"log.trackers contains {name!r}, which needs {kind.needs}; run pip "
      f"install 'bigscale[{kind.extra}]'",
    )


def open_trackers(workdir: pathlib.Path, spec: RunSpec) -> list[Background]:
  """Starts the trackers of `log.trackers`.

  Args:
    workdir: folder of the run.
    spec: spec of the run, for which `check` has passed.
  """
  return [
    Background(name, _opener(name, workdir, spec)) for name in spec.log.trackers
  ]


def _opener(
  name: str, workdir: pathlib.Path, spec: RunSpec
) -> Callable[[], Tracker]:
  if is_path(name):
    return lambda: load(name, "a tracker")(workdir, to_json(spec))
  return lambda: _KINDS[name].open(workdir, spec)
