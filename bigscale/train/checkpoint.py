"""Checkpoints: state, data position and notes of a step, in one (Orbax).

Saves are asynchronous and atomic: a step either is complete or is not there.
"""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from absl import logging

from bigscale.parallel import multihost
from bigscale.spec import CheckpointSpec, SpecError
from bigscale.train.state import GanState

# Under which Orbax keeps what the best are chosen by.
_SCORE = "score"


class Restored(NamedTuple):
  """What a checkpoint gives back.

  Attributes:
    step: it was saved after.
    state: on the devices that the abstract state asked for.
    data: state of the stream.
    meta: anything else, plain JSON.
  """

  step: int
  state: GanState
  data: dict[str, Any]
  meta: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run folder.

  Attributes:
    directory: of the run.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    spec: CheckpointSpec,
    name: str = "checkpoints",
  ) -> None:
    """Opens `directory`/`name`, clearing leftovers of broken saves.

    Args:
      directory: of the run.
      spec: which steps are kept.
      name: of the folder in it.
    """
    self.directory = directory
    self._path = directory.absolute() / name
    self._spec = spec
    self._open()

  def _open(self) -> None:
    policies, spec = ocp.checkpoint_managers, self._spec
    keep: list[Any] = [policies.LatestN(spec.keep)]
    if spec.keep_best:
      keep.append(
        policies.BestN(
          get_metric_fn=lambda metrics: metrics[_SCORE],
          reverse=True,
          n=spec.keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      self._path,
      item_names=("state", "data", "meta"),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep),
        cleanup_tmp_directories=True,
      ),
    )

  def latest_step(self) -> int | None:
    """The newest complete step."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """All complete steps, in order."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: GanState,
    data: Mapping[str, Any],
    meta: Mapping[str, Any],
    score: float | None = None,
  ) -> None:
    """Copies the state to the host and writes it behind the training's back.

    Args:
      step: steps done. One that exists already is left as it is.
      state: device arrays; they may be donated as soon as this returns.
      data: state of the stream.
      meta: plain JSON.
      score: of an evaluation at this step, for the best-of policy: less is
        better.
    """
    if step in self._manager.all_steps():
      return
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(dict(data)),
        meta=ocp.args.JsonSave(dict(meta)),
      ),
      metrics=None if score is None else {_SCORE: score},
      force=True,
    )
    if not saved:
      # Orbax refuses steps older than the newest one without a word.
      logging.error("checkpoint of step %d was not saved", step)

  def restore(self, abstract: GanState, step: int | None = None) -> Restored:
    """Reads a step (the newest where None) onto the devices of `abstract`.

    Raises:
      SpecError: there is no such step, or its state has another shape.
    """
    steps = self.steps()
    if step is None and steps:
      step = steps[-1]
    if step not in steps:
      known = ", ".join(map(str, steps)) or "none"
      raise SpecError(
        f"no checkpoint of step {step if step is not None else '(any)'} in "
        f"{self._manager.directory}; there are: {known}"
      )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        data=ocp.args.JsonRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step, restored.state, restored.data, restored.meta)

  def set_aside(self, after: int, attempt: int) -> list[int]:
    """Moves later steps out of the way of an attempt that starts before them.

    Orbax does not save a step that is older than its newest one. They go to
    `abandoned/attempt-N/NAME` beside this folder, where nobody looks for
    checkpoints and nobody deletes them.

    Args:
      after: steps above this one go.
      attempt: that made them.

    Returns:
      The steps that went.
    """
    self.wait()
    later = [step for step in self.steps() if step > after]
    if not later:
      return []
    self._manager.close()
    multihost.decide("set aside", lambda: self._move(later, attempt))
    self._open()
    return later

  def _move(self, steps: Sequence[int], attempt: int) -> None:
    aside = self._path.parent / "abandoned" / f"attempt-{attempt}"
    aside = aside / self._path.name
    aside.mkdir(parents=True, exist_ok=True)
    for step in steps:
      place = aside / str(step)
      if place.exists():
        # Left by a process that was killed as it went back here.
        shutil.rmtree(place)
      (self._path / str(step)).rename(place)

  def wait(self) -> None:
    """Waits until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits until the last save is complete; without it, it may be lost."""
    self._manager.wait_until_finished()
    self._manager.close()
