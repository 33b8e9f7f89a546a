"""The folders of saved steps, on a disk and on a bucket.

On a disk, step 8 is the folder `8`, and a step is set aside by moving its
folder. A bucket cannot move a folder. There, a marker object in the folder sets
the step aside, and the step is saved again as `8.1`, `8.2` and so on.
"""

import asyncio
import concurrent.futures
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import orbax.checkpoint as ocp
from etils import epath

from bigscale.parallel import multihost
from bigscale.place import is_remote, open_place, prepare
from bigscale.place.paths import path_of
from bigscale.spec import require
from bigscale.train import step_names
from bigscale.train.lease import Lease

_DELETERS = 16


class Steps(Protocol):
  """The step folders in one checkpoint folder.

  Attributes:
    path: the checkpoint folder.
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

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a complete step."""
    ...

  def set_aside(self, steps: Sequence[int], where: str) -> None:
    """Removes steps from the folder but keeps their content.

    Args:
      steps: complete steps.
      where: why and when, as a relative path: `damaged`, `abandoned/attempt-N`.
    """
    ...


def at(path: epath.PathLike, claim: Any = None) -> Steps:
  """Returns the step folders in a checkpoint folder, which may not exist.

  Args:
    path: path or address of the checkpoint folder.
    claim: claim of the run's folder, which saves verify; None to only read.
  """
  if is_remote(path):
    return BucketSteps(path, claim)
  return DiskSteps(path_of(path).absolute())


def check_address(path: epath.PathLike) -> None:
  """Raises `SpecError` if checkpoints cannot be at an address."""
  require(
    not is_remote(path) or os.fspath(path).startswith("gs://"),
    f"{path}: Orbax cannot save or read checkpoints there; use a gs:// address "
    "or a folder on a disk",
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

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a step."""
    return self.path / str(step)

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


class BucketSteps(ocp.path.step.NameFormat[ocp.path.step.Metadata]):
  """Step folders on a bucket; Orbax asks this object for their names."""

  def __init__(self, url: epath.PathLike, claim: Lease | None = None) -> None:
    check_address(url)
    prepare()
    self.path = epath.Path(url)
    self._place = open_place(url)
    self._claim = claim
    self._taken: set[str] = set()
    self._given: dict[int, str] = {}

  def open(self, writes: bool) -> dict[str, Any]:
    """Returns Orbax's options, and reads the names in use before writing.

    The names of incomplete steps stay in use: the process that was writing them
    may only be stopped, and may write to them again.

    Args:
      writes: whether steps are written.
    """
    options: dict[str, Any] = {"step_name_format": self}
    if not writes:
      return options
    names = multihost.decide("step names", self._clear)
    self._taken, self._given = set(names), {}
    # Orbax fails if another process deletes the same objects meanwhile.
    options["cleanup_tmp_directories"] = False
    if self._claim is not None:
      options["temporary_path_class"] = _fenced(self._claim, self.path)
    return options

  def existing(self) -> list[int]:
    """Returns the complete steps that are not set aside."""
    return sorted(step_names.complete(self._place))

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a complete step.

    Raises:
      FileNotFoundError: if there is none. A holder that was replaced may still
        be deleting an old step.
    """
    name = step_names.complete(self._place).get(step)
    if name is None:
      raise FileNotFoundError(
        f"there is no complete step {step} in {self.path}"
      )
    return self.path / name

  def set_aside(self, steps: Sequence[int], where: str) -> None:
    """Writes the marker into the folders of steps."""
    if self._claim is not None:
      # A holder that was replaced would mark the steps of the next one.
      self._claim.verify()
    names = step_names.complete(self._place)
    content = json.dumps({"set_aside": where}).encode()
    for step in steps:
      if step in names:
        self._place.write(f"{names[step]}/{step_names.MARKER}", content)

  def _clear(self) -> list[str]:
    """Deletes incomplete steps and returns all names that were in use."""
    found = step_names.all_names(self._place)
    torn = [
      f"{name}/{file}"
      for name, files in found.items()
      if step_names.is_step(name) and step_names.COMMITTED not in files
      for file in sorted(files)
      if file
    ]
    with concurrent.futures.ThreadPoolExecutor(_DELETERS) as pool:
      list(pool.map(self._place.delete, torn))
    return sorted(found)

  def build_name(self, step: int) -> str:
    """Returns the name for a new save of a step."""
    if step not in self._given:
      number = 0
      while (name := step_names.name_of(step, number)) in self._taken:
        number += 1
      self._given[step] = name
      self._taken.add(name)
    return self._given[step]

  def find_all(
    self, base_path: epath.PathLike
  ) -> Iterator[ocp.path.step.Metadata]:
    """Yields all complete steps that are not set aside."""
    for step, name in sorted(step_names.complete(self._place).items()):
      yield ocp.path.step.Metadata(step, epath.Path(base_path) / name)

  def find_step(
    self, base_path: epath.PathLike, step: int
  ) -> ocp.path.step.Metadata:
    """Returns a complete step.

    Raises:
      ValueError: if there is none, or if it was set aside.
    """
    name = step_names.complete(self._place).get(step)
    if name is None:
      raise ValueError(f"no complete step {step} in {base_path}")
    return ocp.path.step.Metadata(step, epath.Path(base_path) / name)


def _fenced(claim: Lease, path: epath.Path) -> type:
  """Returns Orbax's way to commit a step, which first verifies the claim."""

  class Fenced(ocp.path.atomicity.CommitFileTemporaryPath):
    async def finalize(self) -> None:
      # The items of a step are committed in the same way, before the step.
      if self.get_final().parent == path:
        await asyncio.to_thread(claim.verify)
      await super().finalize()

  return Fenced
