"""A new run that starts from the weights of another one."""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

from bigscale.spec import ModelBase, SpecError
from bigscale.train import folder as folders
from bigscale.train.build import Built, build
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.state import Average, GanState, Player, average_of


class Start(NamedTuple):
  """Weights to start from.

  Attributes:
    path: folder of their run.
    step: of the checkpoint.
    g: weights, statistics and spectra of G.
    d: those of D.
    ema: G's moving average.
    statistics: which statistics of batch norm imported weights brought; ""
      of weights that were trained here. Training goes on from those in `g`.
  """

  path: pathlib.Path
  step: int
  g: Average
  d: Average
  ema: Average
  statistics: str = ""

  def note(self) -> dict[str, Any]:
    """Returns what the run's events say of its start."""
    said = {"run": str(self.path), "of_step": self.step}
    return said | ({"statistics": self.statistics} if self.statistics else {})


def has_checkpoint(directory: str | os.PathLike[str]) -> bool:
  """Whether a run folder, which need not be there, holds a checkpoint."""
  steps = pathlib.Path(directory) / "checkpoints"
  return steps.is_dir() and any(
    path.name.isdecimal() for path in steps.iterdir()
  )


def read_start(built: Built, directory: str | os.PathLike[str]) -> Start:
  """Reads the newest checkpoint of another run.

  Args:
    built: the new run, on whose devices the weights are put.
    directory: of the other run.

  Raises:
    SpecError: there is no run or no checkpoint, or its model is another.
  """
  path = pathlib.Path(directory)
  has_spec = folders.RunFolder(path).spec.is_file()
  if not has_spec or not has_checkpoint(path):
    raise SpecError(
      f"--init_from={path} holds no run with a checkpoint; name the folder of "
      "one that `bigscale train` or `bigscale import` wrote"
    )
  folder, theirs = folders.open_existing(path)
  _check_same(path, theirs.model, built.spec.model)
  # Its optimizers and counters may be of another kind: they are read as they
  # are, and left.
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
  """The fresh `state` with the other run's weights, at its own step 0."""
  return state._replace(
    g=_with_weights(state.g, start.g),
    d=_with_weights(state.d, start.d),
    ema=start.ema,
  )


def _with_weights(player: Player, weights: Average) -> Player:
  return player._replace(**weights._asdict())


def _check_same(path: pathlib.Path, theirs: ModelBase, ours: ModelBase) -> None:
  """Raises `SpecError` naming every field in which two models differ."""
  there, here = dataclasses.asdict(theirs), dataclasses.asdict(ours)
  lines = [
    f"  model.{name}: {there.get(name)!r} there, {here.get(name)!r} here"
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]
  if lines:
    raise SpecError(
      f"--init_from={path} is of another model:\n"
      + "\n".join(lines)
      + "\nSet these in --config as they are there, or take another run."
    )
