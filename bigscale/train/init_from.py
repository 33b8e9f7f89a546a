"""Initializes a new run with the weights of another run."""

import dataclasses
import os
from typing import Any, NamedTuple

from etils import epath

from bigscale.spec import ModelBase, SpecError
from bigscale.train import folder as folders
from bigscale.train.build import Built, build
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.state import Average, GanState, Player, average_of


class Start(NamedTuple):
  """The weights of another run.

  Attributes:
    path: folder of the other run.
    step: step of its checkpoint.
    g: weights, batch statistics and spectra of G.
    d: weights, batch statistics and spectra of D.
    ema: G's moving average.
    statistics: which batch norm statistics imported weights came with; "" if
      the weights were trained by bigscale. Training uses the statistics in `g`.
  """

  path: epath.Path
  step: int
  g: Average
  d: Average
  ema: Average
  statistics: str = ""

  def note(self) -> dict[str, Any]:
    """Returns the fields of the `init_from` event."""
    fields = {"run": str(self.path), "of_step": self.step}
    return fields | ({"statistics": self.statistics} if self.statistics else {})


def has_checkpoint(directory: str | os.PathLike[str]) -> bool:
  """Returns whether a folder, which may not exist, contains a checkpoint."""
  return folders.RunFolder(folders.address(directory)).has_steps()


def read_start(built: Built, directory: str | os.PathLike[str]) -> Start:
  """Reads the weights from the newest checkpoint of another run.

  Args:
    built: functions of the new run, whose mesh the weights are restored to.
    directory: folder of the other run.

  Raises:
    SpecError: if there is no run or no checkpoint, or if the models differ.
  """
  path = folders.address(directory)
  has_spec = folders.RunFolder(path).has_spec()
  if not has_spec or not has_checkpoint(path):
    raise SpecError(
      f"--init_from={path} contains no run with a checkpoint; use a folder "
      "that `bigscale train` or `bigscale import` wrote"
    )
  folder, theirs = folders.open_existing(path)
  _check_same(path, theirs.model, built.spec.model)
  # Its optimizer and augmentation settings may differ, so the state is restored
  # with the other run's structure. Only the weights are used.
  other = build(
    dataclasses.replace(
      theirs,
      mesh=built.spec.mesh,
      global_batch_size=built.spec.global_batch_size,
    ),
    built.mesh,
  )
  checkpoints = CheckpointReader(folder.path)
  try:
    restored = checkpoints.restore(other.abstract_state)
  finally:
    checkpoints.close()
  state = restored.state
  return Start(
    path,
    restored.step,
    average_of(state.g),
    average_of(state.d),
    state.ema,
    restored.meta.get("imported", {}).get("statistics", ""),
  )


def apply_start(state: GanState, start: Start) -> GanState:
  """Returns the initial state with its weights replaced by `start`."""
  return state._replace(
    g=_with_weights(state.g, start.g),
    d=_with_weights(state.d, start.d),
    ema=start.ema,
  )


def _with_weights(player: Player, weights: Average) -> Player:
  return player._replace(**weights._asdict())


def _check_same(path: epath.Path, theirs: ModelBase, ours: ModelBase) -> None:
  """Raises `SpecError` with all differences if two models differ."""
  there, here = dataclasses.asdict(theirs), dataclasses.asdict(ours)
  lines = [
    f"  model.{name}: {there.get(name)!r} in the other run, "
    f"{here.get(name)!r} in this one"
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]
  if lines:
    raise SpecError(
      f"--init_from={path} contains another model:\n"
      + "\n".join(lines)
      + "\nSet these fields in --config to the other run's values, or use "
      "another run."
    )
