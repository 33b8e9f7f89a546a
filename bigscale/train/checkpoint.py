"""Orbax checkpoints with the state, the data position and metadata of a step.

Saves are asynchronous and atomic: a step is either complete or absent. Orbax
detects files that are missing or truncated, but not flipped bits. Therefore,
each checkpoint stores a fingerprint of every array (`parallel/fingerprint`),
which is compared when the array is restored on any mesh. A digest covers the
JSON values (`train/notes`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from bigscale.parallel import fingerprint, multihost
from bigscale.place.paths import path_of
from bigscale.spec import CheckpointSpec, SpecError
from bigscale.train import best, managers, notes, steps
from bigscale.train.lease import LeaseLostError
from bigscale.train.state import GanState
from bigscale.train.together import together

_ITEMS = ("state", "data", "meta")
_FINGERPRINTS = "fingerprints"


class DamagedError(SpecError):
  """A checkpoint that cannot be read or differs from what was saved."""


class Damage(NamedTuple):
  """A damaged checkpoint that was skipped.

  Attributes:
    step: step of the checkpoint.
    why: reason why it cannot be used.
  """

  step: int
  why: str


class Restored(NamedTuple):
  """The content of a restored checkpoint.

  Attributes:
    step: number of steps done when it was saved.
    state: state with the shardings of the abstract state.
    data: state of the data stream.
    meta: metadata, plain JSON.
    damaged: newer checkpoints that could not be read, the newest first.
  """

  step: int
  state: GanState
  data: dict[str, Any]
  meta: dict[str, Any]
  damaged: tuple[Damage, ...] = ()

  @property
  def attempt(self) -> int:
    """Number of rollbacks before the state."""
    return int(jax.device_get(self.state.attempt))


class CheckpointReader:
  """Reads the checkpoints of a run folder that another process may be writing.

  The reader never creates, changes or deletes files. It also keeps incomplete
  saves, which may be in progress.

  Attributes:
    directory: run folder.
    claim: claim of the run folder; None if it is only read.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    name: str = "checkpoints",
    claim: Any = None,
  ) -> None:
    """Opens `directory`/`name`, which may not exist.

    Args:
      directory: path or address of the run folder.
      name: name of the checkpoint folder in it.
      claim: claim of the run folder; None to only read.
    """
    self.directory, self.claim = path_of(directory), claim
    self._folders = steps.at(self.directory / name, claim)
    self._open()

  def _open(self) -> None:
    self._manager = managers.read_only(self._folders, _ITEMS)

  def latest_step(self) -> int | None:
    """Returns the newest complete step, or None."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """Returns all complete steps in ascending order."""
    return sorted(self._manager.all_steps())

  def restore(self, abstract: GanState, step: int | None = None) -> Restored:
    """Restores a step onto the devices of `abstract`.

    Args:
      abstract: shapes, dtypes and shardings of the state.
      step: step to restore; None means the newest undamaged step, on which all
        processes agree. Damaged steps are logged and listed in the result.

    Raises:
      SpecError: if the step does not exist.
      DamagedError: if the step, or every step, cannot be read, differs from
        what was saved, or belongs to another model.
    """
    # All processes use process 0's listing: steps may be added meanwhile.
    saved = multihost.decide("steps", self.steps)
    if not saved or step not in (None, *saved):
      known = ", ".join(map(str, saved)) or "none"
      raise SpecError(
        f"no checkpoint of step {step if step is not None else '(any)'} in "
        f"{self._manager.directory}; existing steps: {known}"
      )
    damaged: list[Damage] = []
    for candidate in reversed(saved) if step is None else [step]:
      found, why = self._read(abstract, candidate)
      if found is not None:
        return found._replace(damaged=tuple(damaged))
      if self._has_changed(saved):
        return self.restore(abstract, step)
      logging.error("checkpoint %d is damaged: %s", candidate, why)
      damaged.append(Damage(candidate, why))
    raise DamagedError(
      f"no undamaged checkpoint in {self._manager.directory}: "
      + "; ".join(f"step {step}: {why}" for step, why in damaged)
      + ". Choose another step (--step), or start from a checkpoint in the "
      "run's healthy/ folder"
    )

  def _has_changed(self, saved: Sequence[int]) -> bool:
    """Returns whether the run has added or deleted steps since the listing.

    If so, the step that could not be read may have been deleted meanwhile.
    """
    self._manager.reload()
    return multihost.decide("steps", self.steps) != saved

  def _read(self, abstract: GanState, step: int) -> tuple[Restored | None, str]:
    """Returns a step, or the reason why it is damaged, on all processes."""
    _, why = together(lambda: managers.check_index(self._folders.folder(step)))
    if not why:
      found, why = together(lambda: self._read_whole(abstract, step))
    if why:
      return None, why
    noted = found.meta.pop(_FINGERPRINTS, None)
    if noted is None:
      return found, ""
    # Fingerprints are computed collectively, so every process gets here.
    wrong, why = together(
      lambda: fingerprint.differences(
        noted, fingerprint.fingerprints(found.state)
      )
    )
    if wrong:
      why = f"arrays differ from what was saved: {', '.join(wrong[:5])}"
    return (None, why) if why else (found, "")

  def _read_whole(self, abstract: GanState, step: int) -> Restored:
    """Returns a step whose JSON values are verified and arrays are not.

    Raises:
      sealed.SealError: if the JSON values differ from what was saved.
    """
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        data=ocp.args.JsonRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
    data, meta = notes.unseal(step, restored.data, restored.meta)
    return Restored(step, restored.state, data, meta)

  def close(self) -> None:
    """Closes Orbax's checkpoint manager."""
    self._manager.close()
    self._folders.close()


class Checkpoints(CheckpointReader):
  """Reads and writes the checkpoints of a run that no other process writes."""

  def __init__(
    self,
    directory: epath.PathLike,
    spec: CheckpointSpec,
    name: str = "checkpoints",
    scores: Sequence[str] = (),
    claim: Any = None,
  ) -> None:
    """Opens `directory`/`name` and deletes incomplete saves.

    Args:
      directory: run folder.
      spec: which steps to keep.
      name: name of the checkpoint folder in it.
      scores: names of the scores that rank steps; () means bigscale's built-in
        scores.
      claim: claim of the run folder, which saves verify.
    """
    self._spec = spec
    self._ranking = best.Ranking(spec.keep_best, spec.best, scores)
    self._pinned = managers.Pinned()
    super().__init__(directory, name, claim)

  def _open(self) -> None:
    policies = ocp.checkpoint_managers
    options = self._folders.open(True)
    self._manager = managers.Manager(
      self._folders.path,
      item_names=_ITEMS,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [policies.LatestN(self._spec.keep), self._ranking, self._pinned]
        ),
        **{"cleanup_tmp_directories": True, **options},
      ),
    )
    # All processes must rank alike, or they would keep different steps.
    saved = self.steps()
    self._ranking.take(
      multihost.decide(
        "scores", lambda: self._ranking.load(self._folders, saved)
      )
    )

  def pin(self, before: int | None) -> None:
    """Keeps the newest checkpoint up to a step, whatever else is deleted.

    Args:
      before: the step; None keeps no such checkpoint.
    """
    saved = [] if before is None else [s for s in self.steps() if s <= before]
    self._pinned.step = max(saved, default=None)

  def _has_changed(self, saved: Sequence[int]) -> bool:
    # No other process writes to this folder.
    del saved
    return False

  def save(
    self,
    step: int,
    state: GanState,
    data: Mapping[str, Any],
    meta: Mapping[str, Any],
  ) -> None:
    """Copies the state to the host and writes it asynchronously.

    Args:
      step: number of steps done. An existing checkpoint is not overwritten.
      state: device arrays; they may be donated as soon as this returns.
      data: state of the data stream.
      meta: metadata, plain JSON.

    Raises:
      fingerprint.ReplicaError: if replicas of the state differ between devices;
        nothing is saved.
      OSError: if the disk has too little free space. If the disk fills up
        during the write, a later call raises.
    """
    if step in self._manager.all_steps():
      return
    managers.check_room(self._folders.path, step, state)
    noted = {**meta, _FINGERPRINTS: fingerprint.fingerprints(state)}
    data, noted = notes.seal(step, data, noted)
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        meta=ocp.args.JsonSave(noted),
      ),
      force=True,
    )
    if not saved:
      # Orbax silently refuses steps older than the newest one.
      logging.error("checkpoint of step %d was not saved", step)

  def set_scores(self, step: int, scores: Mapping[str, float]) -> None:
    """Writes the scores of a checkpoint into its folder and ranks it.

    Waits until the checkpoint is complete.

    Args:
      step: saved step.
      scores: scores by column, equal on all processes; {} if scoring failed.
    """
    self.wait()
    if step not in self.steps():
      logging.error("cannot write scores: there is no checkpoint %d", step)
      return
    self._ranking.put(step, scores)
    if multihost.is_main():
      try:
        best.write(self._folders.address(step), step, scores)
      except OSError as error:
        logging.warning(
          "cannot write the scores of step %d into its checkpoint (%s)",
          step,
          error,
        )

  def scores(self, step: int) -> dict[str, float] | None:
    """Returns the scores of a checkpoint, or None if it was not scored."""
    return self._ranking.get(step)

  def set_aside(self, after: int, attempt: int) -> list[int]:
    """Moves the checkpoints after a step to `abandoned/attempt-N/NAME`.

    Orbax does not save a step that is older than its newest one. Checkpoints in
    `abandoned`, next to this folder, are neither read nor deleted. On a bucket,
    they are marked instead of moved (`train/steps`).

    Args:
      after: steps greater than this one are moved.
      attempt: attempt that saved them.

    Returns:
      The steps that were moved.
    """
    self.wait()
    later = [step for step in self.steps() if step > after]
    self._set_aside(later, f"abandoned/attempt-{attempt}")
    return later

  def set_damaged_aside(self, damaged: Sequence[Damage]) -> None:
    """Moves checkpoints to `damaged/NAME` so that the steps can be resaved.

    On a bucket, they are marked instead of moved.
    """
    self._set_aside([step for step, _ in damaged], "damaged")

  def _set_aside(self, saved: Sequence[int], where: str) -> None:
    if not saved:
      return
    self._manager.close()
    multihost.decide("set aside", lambda: self._folders.set_aside(saved, where))
    self._open()

  def wait(self) -> None:
    """Waits until all saves are complete."""
    self._manager.wait_until_finished()
    self._delete_old()

  def _delete_old(self) -> None:
    """Deletes the steps that Orbax dropped, where it cannot do so itself."""
    kept = self._manager.all_steps()
    if multihost.is_main():
      try:
        self._folders.keep(kept)
      except (OSError, LeaseLostError) as error:
        logging.warning("old checkpoints could not be deleted (%s)", error)

  def attend(self, reports: Any, seconds: float) -> None:
    """Does nothing: on a disk, a save that fails ends the run."""

  def finish(self, step: int, save: Callable[[], None]) -> None:
    """Waits until a step is saved; see `BucketCheckpoints.finish`."""
    del step, save
    self.wait()

  def close(self) -> None:
    """Waits for the last save, which could otherwise be lost, and closes."""
    self.wait()
    super().close()
