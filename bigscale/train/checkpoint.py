"""Checkpoints: state, data position and notes of a step, in one (Orbax).

Saves are asynchronous and atomic: a step either is complete or is not there.
Orbax notices a file that is missing or cut short, but not a flipped bit in it.
So every array's fingerprint (`parallel/fingerprint`) is noted with it and
compared when it is read again, on whatever mesh; a digest covers the rest
(`train/notes`).
"""

import errno
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging

from bigscale.parallel import fingerprint, multihost
from bigscale.spec import CheckpointSpec, SpecError
from bigscale.train import best, managers, notes, sealed
from bigscale.train.state import GanState

T = TypeVar("T")

_ITEMS = ("state", "data", "meta")
_FINGERPRINTS = "fingerprints"
# Beyond its arrays a checkpoint has little.
_ROOM = 1.05


class DamagedError(SpecError):
  """A checkpoint that is not what was saved."""


class Damage(NamedTuple):
  """A checkpoint that was passed over.

  Attributes:
    step: of it.
    why: what is wrong with it.
  """

  step: int
  why: str


class Restored(NamedTuple):
  """What a checkpoint gives back.

  Attributes:
    step: it was saved after.
    state: on the devices that the abstract state asked for.
    data: state of the stream.
    meta: anything else, plain JSON.
    damaged: newer checkpoints that could not be read, the newest first.
  """

  step: int
  state: GanState
  data: dict[str, Any]
  meta: dict[str, Any]
  damaged: tuple[Damage, ...] = ()


class CheckpointReader:
  """The checkpoints of a run folder that others may be writing; read only.

  Nothing in the folder is made, changed or deleted, not even leftovers of
  broken saves: they may be a save under way.

  Attributes:
    directory: of the run.
  """

  def __init__(
    self, directory: pathlib.Path, name: str = "checkpoints"
  ) -> None:
    """Opens `directory`/`name`, which need not be there.

    Args:
      directory: of the run.
      name: of the folder in it.
    """
    self.directory = directory
    self._path = directory.absolute() / name
    self._open()

  def _open(self) -> None:
    self._manager = managers.read_only(self._path, _ITEMS)

  def latest_step(self) -> int | None:
    """The newest complete step."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """All complete steps, in order."""
    return sorted(self._manager.all_steps())

  def restore(self, abstract: GanState, step: int | None = None) -> Restored:
    """Reads a step onto the devices of `abstract`.

    Args:
      abstract: shapes, dtypes and shardings.
      step: None takes the newest one that is whole, which all processes agree
        on; damaged ones are logged, and named in what is returned.

    Raises:
      SpecError: there is no such step.
      DamagedError: it, or all of them, cannot be read, is not what was saved,
        or is the state of another model.
    """
    # Process 0's view of a shared disk, to which steps may be added just now.
    steps = multihost.decide("steps", self.steps)
    if not steps or step not in (None, *steps):
      known = ", ".join(map(str, steps)) or "none"
      raise SpecError(
        f"no checkpoint of step {step if step is not None else '(any)'} in "
        f"{self._manager.directory}; there are: {known}"
      )
    damaged: list[Damage] = []
    for candidate in reversed(steps) if step is None else [step]:
      found, why = self._read(abstract, candidate)
      if found is not None:
        return found._replace(damaged=tuple(damaged))
      if self._has_changed(steps):
        return self.restore(abstract, step)
      logging.error("checkpoint %d is damaged: %s", candidate, why)
      damaged.append(Damage(candidate, why))
    raise DamagedError(
      f"no whole checkpoint in {self._manager.directory}: "
      + "; ".join(f"step {step}: {why}" for step, why in damaged)
      + "; name another one (--step), or start from a state in the run's "
      "healthy/"
    )

  def _has_changed(self, steps: Sequence[int]) -> bool:
    """Whether the run has saved, and so deleted, steps since these were listed.

    Then what could not be read may have been going, and another is newest.
    """
    self._manager.reload()
    return multihost.decide("steps", self.steps) != steps

  def _read(self, abstract: GanState, step: int) -> tuple[Restored | None, str]:
    """A step as it was saved, or why not; the same on all processes."""
    _, why = _together(lambda: managers.check_index(self._path / str(step)))
    if not why:
      found, why = _together(lambda: self._read_whole(abstract, step))
    if why:
      return None, why
    noted = found.meta.pop(_FINGERPRINTS, None)
    if noted is None:
      return found, ""
    # All processes compute together: none may stop before.
    wrong, why = _together(
      lambda: fingerprint.differences(
        noted, fingerprint.fingerprints(found.state)
      )
    )
    if wrong:
      why = f"not what was saved: {', '.join(wrong[:5])}"
    return (None, why) if why else (found, "")

  def _read_whole(self, abstract: GanState, step: int) -> Restored:
    """A step, its notes as they were saved, its arrays as they are there.

    Raises:
      sealed.SealError: the notes are not what was saved.
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
    """Lets go of what Orbax holds."""
    self._manager.close()


class Checkpoints(CheckpointReader):
  """The checkpoints of a run folder that this run alone writes."""

  def __init__(
    self,
    directory: pathlib.Path,
    spec: CheckpointSpec,
    name: str = "checkpoints",
    scores: Sequence[str] = (),
  ) -> None:
    """Opens `directory`/`name`, clearing leftovers of broken saves.

    Args:
      directory: of the run.
      spec: which steps are kept.
      name: of the folder in it.
      scores: by which steps are ranked; () takes any of bigscale's own.
    """
    self._spec = spec
    self._ranking = best.Ranking(spec.keep_best, spec.best, scores)
    super().__init__(directory, name)

  def _open(self) -> None:
    policies = ocp.checkpoint_managers
    self._manager = managers.Manager(
      self._path,
      item_names=_ITEMS,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [policies.LatestN(self._spec.keep), self._ranking]
        ),
        cleanup_tmp_directories=True,
      ),
    )
    # Processes that rank differently would disagree on which steps there are.
    steps = self.steps()
    self._ranking.take(
      multihost.decide("scores", lambda: self._ranking.load(self._path, steps))
    )

  def _has_changed(self, steps: Sequence[int]) -> bool:
    # Nobody else writes here.
    del steps
    return False

  def save(
    self,
    step: int,
    state: GanState,
    data: Mapping[str, Any],
    meta: Mapping[str, Any],
  ) -> None:
    """Copies the state to the host and writes it behind the training's back.

    Args:
      step: steps done. One that exists already is left as it is.
      state: device arrays; they may be donated as soon as this returns.
      data: state of the stream.
      meta: plain JSON.

    Raises:
      fingerprint.ReplicaError: devices disagree on the state; nothing of it
        is saved.
      OSError: there is no room for it on the disk. Of a disk that fills up
        while it is written, a later call tells.
    """
    if step in self._manager.all_steps():
      return
    _check_room(self._path, step, state)
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
      # Orbax refuses steps older than the newest one without a word.
      logging.error("checkpoint of step %d was not saved", step)

  def set_scores(self, step: int, scores: Mapping[str, float]) -> None:
    """Notes what a checkpoint scores, by which the best ones are kept.

    Waits until the checkpoint is complete: its scores lie in its folder.

    Args:
      step: that was saved.
      scores: by column, the same on all processes; {} where it was scored in
        vain.
    """
    self.wait()
    if step not in self.steps():
      logging.error("checkpoint of step %d is not there to be scored", step)
      return
    self._ranking.put(step, scores)
    if multihost.is_main():
      try:
        best.write(self._path / str(step), step, scores)
      except OSError as error:
        logging.warning(
          "the scores of step %d are not noted with its checkpoint (%s)",
          step,
          error,
        )

  def scores(self, step: int) -> dict[str, float] | None:
    """What a checkpoint scores, None where it was not scored."""
    return self._ranking.get(step)

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
    self._set_aside(later, f"abandoned/attempt-{attempt}")
    return later

  def set_damaged_aside(self, damaged: Sequence[Damage]) -> None:
    """Moves them to `damaged/NAME`: their steps are to be saved again."""
    self._set_aside([step for step, _ in damaged], "damaged")

  def _set_aside(self, steps: Sequence[int], where: str) -> None:
    if not steps:
      return
    self._manager.close()
    aside = self._path.parent / where / self._path.name
    multihost.decide("set aside", lambda: self._move(steps, aside))
    self._open()

  def _move(self, steps: Sequence[int], aside: pathlib.Path) -> None:
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


def _together(read: Callable[[], T]) -> tuple[T | None, str]:
  """What a read gave, or why any process's failed; the latter on all alike."""
  found, why = None, ""
  try:
    found = read()
  except sealed.SealError as error:
    why = str(error)
  except Exception as error:
    # Whatever reading damaged files can end in.
    why = f"it cannot be read ({type(error).__name__}: {_brief(error)})"
  told = multihost.gather("damage", [why] if why else [])
  why = multihost.decide("damage", lambda: told[0] if told else "")
  return (None, why) if why else (found, "")


def _check_room(path: pathlib.Path, step: int, state: GanState) -> None:
  """Now, and in words: in the middle of a save the others would wait for it."""
  needed = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(state)
    for shard in leaf.addressable_shards
    if shard.replica_id == 0
  )
  free = shutil.disk_usage(path).free
  if free < needed * _ROOM:
    raise OSError(
      errno.ENOSPC,
      f"checkpoint {step} takes {needed / 2**30:.2f} GiB, and {path} has "
      f"{free / 2**30:.2f} GiB left on its disk; make room, or lower "
      "checkpoint.keep, and start the run again: earlier steps are whole",
    )


def _brief(error: Exception) -> str:
  """The first line of a message, which may go on for pages."""
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else ""
