"""Opens the trackers of a run's config."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from bigscale.spec import RunSpec, require, to_json
from bigscale.spec.named import is_path, load
from bigscale.train.folder import RunFolder
from bigscale.train.trackers.table import csv_table, parquet_table
from bigscale.train.trackers.tracker import Background, Tracker
from bigscale.train.trackers.wandb import WeightsAndBiases
from bigscale.train.writers import Write


class _Kind(NamedTuple):
  """A tracker of this package.

  Attributes:
    open: opens it for a run's folder and spec, and the function that writes
      into the folder.
    needs: package that it imports, or "".
    extra: extra of bigscale that installs the package.
  """

  open: Callable[[RunFolder, RunSpec, Write], Tracker]
  needs: str = ""
  extra: str = ""


_KINDS = {
  "wandb": _Kind(
    lambda folder, spec, write: WeightsAndBiases(folder.place, to_json(spec)),
    "wandb",
    "wandb",
  ),
  "csv": _Kind(lambda folder, spec, write: csv_table(write)),
  "parquet": _Kind(
    lambda folder, spec, write: parquet_table(write), "pyarrow", "parquet"
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


def open_trackers(
  folder: RunFolder, spec: RunSpec, write: Write
) -> list[Background]:
  """Starts the trackers of `log.trackers`.

  Args:
    folder: folder of the run.
    spec: spec of the run, for which `check` has passed.
    write: writes a file into the folder (`Home.write`).
  """
  return [
    Background(name, _opener(name, folder, spec, write))
    for name in spec.log.trackers
  ]


def _opener(
  name: str, folder: RunFolder, spec: RunSpec, write: Write
) -> Callable[[], Tracker]:
  if is_path(name):
    return lambda: load(name, "a tracker")(folder.path, to_json(spec))
  return lambda: _KINDS[name].open(folder, spec, write)
