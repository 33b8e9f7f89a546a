"""The folders of saved steps on a bucket that Orbax writes to.

A bucket cannot move a folder. Therefore, a marker object in the folder of a
step sets the step aside, and the step is saved again as `8.1`, `8.2` and so on.
"""

import asyncio
import concurrent.futures
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from bigscale.parallel import multihost
from bigscale.place import open_place, prepare
from bigscale.train import step_names
from bigscale.train.lease import Lease

_DELETERS = 16


class BucketSteps(ocp.path.step.NameFormat[ocp.path.step.Metadata]):
  """Step folders on a bucket; Orbax asks this object for their names."""

  def __init__(self, url: epath.PathLike, claim: Lease | None = None) -> None:
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

  def address(self, step: int) -> str:
    """Returns the address of a complete step.

    Raises:
      FileNotFoundError: if there is none. A holder that was replaced may still
        be deleting an old step.
    """
    name = step_names.complete(self._place).get(step)
    if name is None:
      raise FileNotFoundError(
        f"there is no complete step {step} in {self._place.url}"
      )
    return f"{self._place.url}/{name}"

  def folder(self, step: int) -> epath.Path:
    """Returns the folder of a complete step; see `address`."""
    return epath.Path(self.address(step))

  def keep(self, steps: Collection[int]) -> None:
    """Does nothing: Orbax deletes the folders."""

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

  def close(self) -> None:
    """Does nothing."""

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
    self._delete(torn)
    return sorted(found)

  def _delete(self, files: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_DELETERS) as pool:
      list(pool.map(self._place.delete, files))

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
      yield self._entry(step, epath.Path(base_path) / name)

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
    return self._entry(step, epath.Path(base_path) / name)

  def _entry(self, step: int, path: epath.Path) -> ocp.path.step.Metadata:
    return ocp.path.step.Metadata(step, path)


def _fenced(claim: Lease, path: epath.Path) -> type:
  """Returns Orbax's way to commit a step, which first verifies the claim."""

  class Fenced(ocp.path.atomicity.CommitFileTemporaryPath):
    async def finalize(self) -> None:
      # The items of a step are committed in the same way, before the step.
      if self.get_final().parent == path:
        await asyncio.to_thread(claim.verify)
      await super().finalize()

  return Fenced
