"""The folders of saved steps: their interface, and those on a disk.

On a disk, step 8 is the folder `8`, and a step is set aside by moving its
folder. Those on buckets are in `bucket_steps` and `staged_steps`.
"""

import os
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from etils import epath

from bigscale.place import is_remote
from bigscale.place.paths import path_of
from bigscale.spec import require
from bigscale.train.bucket_steps import BucketSteps
from bigscale.train.staged_steps import StagedSteps


class Steps(Protocol):
  """The step folders in one checkpoint folder.

  Attributes:
    path: the folder that Orbax writes and reads, known after `open`.
  """

  path: epath.Path

  def open(self, writes: bool) -> dict[str, Any]:
    """Returns Orbax's options for this folder; all processes call this.

    Args:
      writes: whether steps are written.
    """
    ...

  def existing(self) -> list[int]:
    """Returns the steps in the folder, which may not exist."""
    ...

  def address(self, step: int) -> str:
    """Returns the path or address of a complete step."""
    ...

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a complete step, which Orbax can read."""
    ...

  def keep(self, steps: Collection[int]) -> None:
    """Deletes all other complete steps, unless Orbax does so."""
    ...

  def set_aside(self, steps: Sequence[int], where: str) -> None:
    """Removes steps from the folder but keeps their content.

    Args:
      steps: complete steps.
      where: why and when, as a relative path: `damaged`, `abandoned/attempt-N`.
    """
    ...

  def close(self) -> None:
    """Deletes temporary files."""
    ...


def at(path: epath.PathLike, claim: Any = None) -> Steps:
  """Returns the step folders in a checkpoint folder, which may not exist.

  Args:
    path: path or address of the checkpoint folder.
    claim: claim of the run's folder, which saves verify; None to only read.
  """
  if not is_remote(path):
    return DiskSteps(path_of(path).absolute())
  check_address(path)
  kind = BucketSteps if os.fspath(path).startswith("gs://") else StagedSteps
  return kind(path, claim)


def check_address(path: epath.PathLike) -> None:
  """Raises `SpecError` if checkpoints cannot be at an address."""
  require(
    not is_remote(path) or os.fspath(path).startswith(("gs://", "s3://")),
    f"{path}: checkpoints cannot be there; use a gs:// or s3:// address or a "
    "folder on a disk",
  )


class DiskSteps:
  """Step folders on a disk."""

  def __init__(self, path: epath.Path) -> None:
    self.path = path

  def open(self, writes: bool) -> dict[str, Any]:
    """Returns no options: Orbax's defaults are for disks."""
    del writes
    return {}

  def existing(self) -> list[int]:
    """Returns the steps in the folder, which may not exist."""
    if not self.path.is_dir():
      return []
    names = [path.name for path in self.path.iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def address(self, step: int) -> str:
    """Returns the path of a step."""
    return os.fspath(self.folder(step))

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a step."""
    return self.path / str(step)

  def keep(self, steps: Collection[int]) -> None:
    """Does nothing: Orbax deletes the folders."""

  def set_aside(self, steps: Sequence[int], where: str) -> None:
    """Moves steps to `where`/NAME next to the checkpoint folder."""
    aside = pathlib.Path(self.path.parent / where / self.path.name)
    aside.mkdir(parents=True, exist_ok=True)
    for step in steps:
      place = aside / str(step)
      if place.exists():
        # A process was killed during an earlier move of this step.
        shutil.rmtree(place)
      pathlib.Path(self.folder(step)).rename(place)

  def close(self) -> None:
    """Does nothing."""
