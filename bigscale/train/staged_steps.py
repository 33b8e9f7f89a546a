"""The folders of saved steps on a store that Orbax cannot write to (s3://).

Orbax saves a step into a *stage*, a temporary folder on a disk. Process 0 then
uploads its files, and `commit_success.txt` last, which makes the step complete
as on other buckets. Before a step is restored, its files are downloaded.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Collection
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from bigscale.parallel import multihost
from bigscale.place import Place
from bigscale.spec import require
from bigscale.train import step_names
from bigscale.train.bucket_steps import BucketSteps
from bigscale.train.lease import Lease, machine

# A file of an array has up to 2 GiB, and is in memory while it is copied.
_COPIERS = 4
_PREFIX = "bigscale-stage-"
# Orbax's own file in the folder of a step.
_METADATA = "_CHECKPOINT_METADATA"
_log = logging.getLogger(__name__)


class StagedSteps(BucketSteps):
  """Step folders on a bucket that are copied from and to a stage."""

  def __init__(self, url: epath.PathLike, claim: Lease | None = None) -> None:
    super().__init__(url, claim)
    self._stage: pathlib.Path | None = None
    self._writes = False

  def open(self, writes: bool) -> dict[str, Any]:
    """Returns Orbax's options, and makes or empties the stage.

    Raises:
      SpecError: if processes that write do not share the stage.
    """
    first = self._stage is None
    name = multihost.decide("stage", self._make_stage)
    self._stage = pathlib.Path(name)
    if writes and first:
      shared = multihost.all_true("stage", self._stage.is_dir())
      require(
        shared,
        f"{self._place.url}: the processes of this run are on several machines "
        f"and do not share {self._stage.parent}, where checkpoints are staged; "
        "set TMPDIR to a folder that they share, or use a gs:// address",
      )
    self._stage.mkdir(exist_ok=True)
    self._writes = writes
    self.path = epath.Path(self._stage)
    options = super().open(writes)
    if writes:
      options["temporary_path_class"] = _uploaded(self)
    return options

  def _make_stage(self) -> str:
    if self._stage is None:
      _remove_abandoned()
      return tempfile.mkdtemp(prefix=f"{_own()}{os.getpid()}-")
    for path in self._stage.iterdir():
      shutil.rmtree(path, ignore_errors=True)
    return os.fspath(self._stage)

  def folder(self, step: int) -> epath.Path:
    """Downloads a complete step and returns its copy; see `address`."""
    name = self.address(step).rpartition("/")[2]
    _download(self._place, name, self._stage / name)
    return epath.Path(self._stage / name)

  def _entry(self, step: int, path: epath.Path) -> ocp.path.step.Metadata:
    """Returns a step; Orbax reads its metadata and may delete its folder."""
    copy = pathlib.Path(path)
    copy.mkdir(exist_ok=True)
    if not (copy / _METADATA).exists():
      with contextlib.suppress(FileNotFoundError):
        content = self._place.read(f"{copy.name}/{_METADATA}")
        (copy / _METADATA).write_bytes(content)
    return super()._entry(step, path)

  def keep(self, steps: Collection[int]) -> None:
    """Deletes all other complete steps of this process from the bucket."""
    old = {
      step: name
      for step, name in step_names.complete(self._place).items()
      # A run that has taken over the folder uses other names.
      if step not in steps and name in self._taken
    }
    if old and self._claim is not None:
      self._claim.verify()
    for name in old.values():
      # Without this file, the step is not complete.
      self._place.delete(f"{name}/{step_names.COMMITTED}")
      self._delete(entry.name for entry in self._place.list(f"{name}/"))

  def upload(self, copy: pathlib.Path) -> None:
    """Uploads a saved step and deletes its files from the stage."""
    files = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    last = copy / step_names.COMMITTED
    with concurrent.futures.ThreadPoolExecutor(_COPIERS) as pool:
      list(
        pool.map(
          lambda file: self._upload(copy, file),
          [file for file in files if file != last],
        )
      )
    if self._claim is not None:
      self._claim.verify()
    self._upload(copy, last)
    for path in files:
      if path.name != _METADATA:
        path.unlink()

  def _upload(self, copy: pathlib.Path, file: pathlib.Path) -> None:
    name = f"{copy.name}/{file.relative_to(copy).as_posix()}"
    self._place.write(name, file.read_bytes())

  def close(self) -> None:
    """Deletes the stage, from which process 0 may still be uploading."""
    if self._stage is not None and (multihost.is_main() or not self._writes):
      shutil.rmtree(self._stage, ignore_errors=True)


def _uploaded(steps: StagedSteps) -> type:
  """Returns Orbax's way to commit a step, which then uploads it."""

  class Uploaded(ocp.path.atomicity.AtomicRenameTemporaryPath):
    async def finalize(self) -> None:
      await super().finalize()
      # The items of a step are committed in the same way, before the step.
      if self.get_final().parent == steps.path:
        await asyncio.to_thread(steps.upload, pathlib.Path(self.get_final()))

  return Uploaded


def _download(place: Place, name: str, copy: pathlib.Path) -> None:
  """Downloads a step unless a process of this machine has done so."""

  def fetch(file: str) -> None:
    path = copy / file.partition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(place.read(file))

  with (copy.parent / f".{name}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    last = f"{name}/{step_names.COMMITTED}"
    if (copy / step_names.COMMITTED).exists():
      return
    files = [entry.name for entry in place.list(f"{name}/")]
    with concurrent.futures.ThreadPoolExecutor(_COPIERS) as pool:
      list(pool.map(fetch, [file for file in files if file != last]))
    fetch(last)


def _own() -> str:
  """Returns how the names of this machine's stages begin."""
  return f"{_PREFIX}{zlib.crc32(machine().encode()):08x}-"


def _remove_abandoned() -> None:
  """Deletes the stages of this machine's processes that were killed."""
  for path in pathlib.Path(tempfile.gettempdir()).glob(f"{_own()}*"):
    number = path.name.removeprefix(_own()).partition("-")[0]
    if not pathlib.Path(f"/proc/{number}").exists():
      _log.info("removing %s, which a killed process left", path)
      shutil.rmtree(path, ignore_errors=True)
