"""Keeps healthy states of a run: snapshots in host memory, checkpoints on disk.

A state is healthy if the verdict's level was `ok` after its step, and if no
later alarm dates the onset of a change before it.
"""

from collections.abc import Mapping
from typing import Any

from bigscale.monitor.snapshots import Ring
from bigscale.parallel import multihost
from bigscale.spec import CheckpointSpec
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints, DamagedError, Restored
from bigscale.train.recorder import Recorder
from bigscale.train.state import GanState


class HealthyStates:
  """The states that a rollback may return to."""

  def __init__(
    self, built: Built, checkpoints: Checkpoints, recorder: Recorder
  ) -> None:
    """Opens `healthy/` in the run's folder. No snapshot is taken yet.

    Args:
      built: the built run.
      checkpoints: the run's checkpoints, which are searched as well.
      recorder: recorder of the run's events.

    Raises:
      SpecError: if two snapshots do not fit into this host's memory.
    """
    monitor = built.spec.monitor
    self._abstract = built.abstract_state
    self._ring = Ring(built.abstract_state, monitor)
    self._checkpoints = checkpoints
    self._recorder = recorder
    self._saved = Checkpoints(
      checkpoints.directory,
      CheckpointSpec(keep=monitor.keep, keep_best=0),
      "healthy",
      claim=checkpoints.claim,
    )
    # The monitor's state after each step that has a snapshot.
    self._watched: dict[int, dict[str, Any]] = {}

  def take(self, step: int, state: GanState, data: dict[str, Any]) -> None:
    """Takes a snapshot; see `Ring.take`."""
    self._ring.take(step, state, data)

  def remember(self, step: int, watched: dict[str, Any]) -> None:
    """Keeps the monitor's state after a step for as long as its snapshot."""
    self._watched[step] = watched
    held = self._ring.held
    self._watched = {k: v for k, v in self._watched.items() if k in held}

  def pin(self, newest: int | None) -> None:
    """Keeps a snapshot and a checkpoint from before a suspected change.

    Args:
      newest: last step before the change; None if no change is suspected.
    """
    held = [] if newest is None else self._ring.held
    self._ring.pinned = max((s for s in held if s <= newest), default=None)
    self._checkpoints.pin(newest)

  def secure(
    self,
    step: int,
    newest: int,
    onset: int,
    attempt: int,
    watched: Mapping[str, Any],
  ) -> int | None:
    """Saves the newest healthy state up to a step.

    The state comes from a snapshot in host memory or, if all snapshots are
    newer, from a checkpoint. Newer snapshots are dropped.

    Args:
      step: step of the run, recorded in its events.
      newest: last step that may be healthy.
      onset: step at which the change began, recorded in the event.
      attempt: number of rollbacks until now.
      watched: the monitor's state, to save with the healthy state.

    Returns:
      The step of the state; None if there is no such state.
    """
    # All Orbax managers use the same barrier names, so saves must not overlap.
    self._checkpoints.wait()
    self._ring.forget_after(newest)
    snapshot = self._ring.newest(newest + 1)
    if snapshot is None:
      target = self._secure_from_disk(step, newest, attempt, watched)
    else:
      target = snapshot.step
      data, then = snapshot.data, self._watched[target]
      restored = Restored(target, self._ring.restore(snapshot), data, {})
      self._save(restored, attempt, {**watched, **then})
    kind = "no_healthy_state" if target is None else "healthy"
    self._recorder.event(kind, step, of_step=target, onset=onset)
    return target

  def _secure_from_disk(
    self, step: int, newest: int, attempt: int, watched: Mapping[str, Any]
  ) -> int | None:
    kept = set(self._saved.steps())
    steps = sorted(kept | set(self._checkpoints.steps()), reverse=True)
    # All processes use process 0's listing of the shared disk.
    for target in multihost.decide("kept", lambda: steps):
      if target > newest:
        continue
      where = self._saved if target in kept else self._checkpoints
      try:
        restored = where.restore(self._abstract, target)
      except DamagedError as error:
        self._recorder.event(
          "damaged_checkpoint", step, of_step=target, why=str(error)
        )
        continue
      if target in kept:
        return target
      then = restored.meta.get("monitor", {})
      if then.get("verdict", {}).get("level") == "ok":
        kept_parts = {k: then[k] for k in ("verdict", "anchors") if k in then}
        self._save(restored, attempt, {**watched, **kept_parts})
        return target
    return None

  def _save(
    self, found: Restored, attempt: int, watched: Mapping[str, Any]
  ) -> None:
    """Writes healthy/STEP and waits until it is complete."""
    # Orbax refuses to save a step that is older than its newest one.
    self._saved.set_aside(found.step, attempt)
    meta = self._recorder.meta(found.step)
    meta |= {"monitor": {**watched, "unresolved": False}}
    self._saved.save(found.step, found.state, found.data, meta)
    self._saved.wait()

  def restore(self, step: int) -> Restored:
    """Reads healthy/STEP, and drops the snapshots of later steps.

    Reading it from disk proves that the checkpoint is readable.
    """
    restored = self._saved.restore(self._abstract, step)
    self._ring.forget_after(step)
    return restored

  def before(self, step: int) -> GanState | None:
    """Returns the state of the newest snapshot before a step; None if none."""
    snapshot = self._ring.newest(step)
    return self._ring.restore(snapshot) if snapshot else None

  def close(self) -> None:
    """Waits until all saves are complete."""
    self._saved.close()
