"""Orbax's checkpoint managers, as a run needs them, and the index they read."""

import logging
import pathlib
from collections.abc import Sequence

import orbax.checkpoint as ocp
import tensorstore

from bigscale.train import sealed


class Manager(ocp.CheckpointManager):
  """Orbax's, which leaves it to the loop to ask whether the run is preempted.

  JAX agrees on a step by counting who has asked how often. Orbax asks from a
  thread of process 0 alone as well, and processes would leave at different
  steps.
  """

  def reached_preemption(self, step: int) -> bool:
    """Never: the loop saves when it is asked to end."""
    del step
    return False


def read_only(path: pathlib.Path, items: Sequence[str]) -> Manager:
  """Opens a folder of checkpoints to read, and makes nothing in it.

  Args:
    path: of the folder, which need not be there.
    items: names of what a checkpoint holds.
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
  """Whether a line says more than that the folder is read only, as asked."""
  return "read only" not in record.getMessage()


def check_index(directory: pathlib.Path) -> None:
  """Reads the index of the arrays of a step, before the arrays are.

  Orbax opens every array at once. Where the index is damaged (OCDBT: the files
  `state/manifest.ocdbt` and `state/d/*`), each of them fails, most in threads
  that print a traceback after nobody waits for them any more: hundreds of pages
  around the one line that says what is wrong.

  Args:
    directory: of the step.

  Raises:
    sealed.SealError: it is damaged.
  """
  base = directory.absolute() / "state"
  if not (base / "manifest.ocdbt").exists():
    # Of that Orbax complains once.
    return
  spec = {"driver": "ocdbt", "base": f"{base.as_uri()}/"}
  try:
    tensorstore.KvStore.open(spec).result().list().result()
  except ValueError as error:
    said = str(error).partition("\n")[0][:200]
    raise sealed.SealError(
      f"the index of its arrays cannot be read ({said})"
    ) from error
