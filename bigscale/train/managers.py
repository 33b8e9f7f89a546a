"""Orbax checkpoint managers, and what is checked around them."""

import errno
import logging
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from bigscale.place import is_remote
from bigscale.train import sealed
from bigscale.train.state import GanState
from bigscale.train.steps import Steps

# Disk space that a checkpoint takes, relative to its arrays.
_DISK_FACTOR = 1.05


class Manager(ocp.CheckpointManager):
  """Orbax's manager without its check for preemption.

  JAX finds a common step by counting each process's calls. Orbax also calls
  from a thread of process 0, so processes would stop at different steps.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False: the training loop handles preemption."""
    del step
    return False


class Pinned:
  """Orbax preservation policy that keeps one step.

  Attributes:
    step: the step; None keeps none.
  """

  def __init__(self) -> None:
    self.step: int | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Implements Orbax's `PreservationPolicy` for all saved steps."""
    del context
    return [checkpoint.step == self.step for checkpoint in checkpoints]


def read_only(folders: Steps, items: Sequence[str]) -> Manager:
  """Opens a folder of checkpoints for reading, without creating files.

  Args:
    folders: step folders, which may not exist.
    items: names of the items in a checkpoint.
  """
  options = ocp.CheckpointManagerOptions(
    read_only=True, save_interval_steps=0, create=False, **folders.open(False)
  )
  absl = logging.getLogger("absl")
  absl.addFilter(_is_news)
  try:
    return Manager(folders.path, item_names=items, options=options)
  finally:
    absl.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
  """Drops Orbax's message that the folder is read only."""
  return "read only" not in record.getMessage()


def check_index(directory: epath.Path) -> None:
  """Verifies the index of a step's arrays before they are restored.

  Orbax opens all arrays concurrently. If the index is damaged (OCDBT: the files
  `state/manifest.ocdbt` and `state/d/*`), every array fails, and background
  threads print hundreds of pages of tracebacks around the one relevant line.

  Args:
    directory: folder of the step.

  Raises:
    sealed.SealError: if the index is damaged.
  """
  base = directory / "state"
  if not (base / "manifest.ocdbt").exists():
    # Orbax reports a missing index with one error.
    return
  spec = {"driver": "ocdbt", "base": _store_of(base)}
  try:
    tensorstore.KvStore.open(spec).result().list().result()
  except ValueError as error:
    reason = str(error).partition("\n")[0][:200]
    raise sealed.SealError(
      f"the index of its arrays cannot be read ({reason})"
    ) from error


def _store_of(path: epath.Path) -> Any:
  """Returns tensorstore's description of a folder."""
  if not is_remote(path):
    return f"{pathlib.Path(path).as_uri()}/"
  bucket, _, name = str(path).removeprefix("gs://").partition("/")
  return {"driver": "gcs", "bucket": bucket, "path": f"{name}/"}


def check_room(path: epath.Path, step: int, state: GanState) -> None:
  """Raises `OSError` if the disk has too little space for a checkpoint.

  If one process failed during the save, the others would wait for it. A bucket
  has no limit.
  """
  if is_remote(path):
    return
  needed = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(state)
    for shard in leaf.addressable_shards
    if shard.replica_id == 0
  )
  free = shutil.disk_usage(path).free
  if free < needed * _DISK_FACTOR:
    raise OSError(
      errno.ENOSPC,
      f"checkpoint {step} needs {needed / 2**30:.2f} GiB, but the disk of "
      f"{path} has {free / 2**30:.2f} GiB free. Free disk space or lower "
      "checkpoint.keep, then start the run again: earlier checkpoints are "
      "complete",
    )
