"""Orbax checkpoint managers, and a check of the index that they read."""

import logging
import pathlib
from collections.abc import Sequence

import orbax.checkpoint as ocp
import tensorstore

from bigscale.train import sealed


class Manager(ocp.CheckpointManager):
  """Orbax's manager without its check for preemption.

  JAX finds a common step by counting each process's calls. Orbax also calls
  from a thread of process 0, so processes would stop at different steps.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False: the training loop handles preemption."""
    del step
    return False


def read_only(path: pathlib.Path, items: Sequence[str]) -> Manager:
  """Opens a folder of checkpoints for reading, without creating files.

  Args:
    path: checkpoint folder, which may not exist.
    items: names of the items in a checkpoint.
  """
  options = ocp.CheckpointManagerOptions(
    read_only=True, save_interval_steps=0, create=False
  )
  absl = logging.getLogger("absl")
  absl.addFilter(_is_news)
  try:
    return Manager(path, item_names=items, options=options)
  finally:
    absl.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
  """Drops Orbax's message that the folder is read only."""
  return "read only" not in record.getMessage()


def check_index(directory: pathlib.Path) -> None:
  """Verifies the index of a step's arrays before they are restored.

  Orbax opens all arrays concurrently. If the index is damaged (OCDBT: the files
  `state/manifest.ocdbt` and `state/d/*`), every array fails, and background
  threads print hundreds of pages of tracebacks around the one relevant line.

  Args:
    directory: folder of the step.

  Raises:
    sealed.SealError: if the index is damaged.
  """
  base = directory.absolute() / "state"
  if not (base / "manifest.ocdbt").exists():
    # Orbax reports a missing index with one error.
    return
  spec = {"driver": "ocdbt", "base": f"{base.as_uri()}/"}
  try:
    tensorstore.KvStore.open(spec).result().list().result()
  except ValueError as error:
    reason = str(error).partition("\n")[0][:200]
    raise sealed.SealError(
      f"the index of its arrays cannot be read ({reason})"
    ) from error
