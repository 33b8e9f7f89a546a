"""The monitor's hands: what a verdict makes of a run.

The verdict (`monitor/verdict`) only reads numbers. Here its alarms become
events, healthy checkpoints and rollbacks. All processes hold the same numbers
and come to the same decisions.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from bigscale.data.stream import Stream
from bigscale.monitor.snapshots import Ring
from bigscale.monitor.verdict import Decision, Verdict
from bigscale.parallel import multihost, rows
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import CheckpointSpec
from bigscale.train import interventions
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints, DamagedError
from bigscale.train.hooks import DivergedError, Recorder
from bigscale.train.reals import open_heldout
from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.types import Batch

_log = logging.getLogger(__name__)


class Guard:
  """Watches one run, keeps healthy states and goes back to them.

  Attributes:
    attempt: rises at each rollback.
  """

  def __init__(
    self,
    built: Built,
    stream: Stream,
    checkpoints: Checkpoints,
    recorder: Recorder,
    attempt: int,
  ) -> None:
    """Watches nothing yet.

    Raises:
      SpecError: the snapshots do not fit into this host's memory.
    """
    spec = built.spec
    self._built = built
    self._spec = spec.monitor
    self._stream = stream
    self._checkpoints = checkpoints
    self._recorder = recorder
    self.attempt = attempt
    self._verdict = Verdict(spec.monitor.verdict)
    self._place_kinks()
    self._retries = 0
    self._failed = False
    self._unresolved = False
    self._level = "ok"
    self._onset = 0
    # Where to go back to; None where nothing is kept from before.
    self._target: int | None = None
    # By step, the verdict's state after it, for the snapshots there are.
    self._verdicts: dict[int, dict[str, Any]] = {}
    self._ring = self._healthy = self._heldout = None
    if spec.monitor.action in ("checkpoint", "rollback"):
      self._ring = Ring(built.abstract_state, spec.monitor)
      self._healthy = Checkpoints(
        checkpoints.directory,
        CheckpointSpec(keep=spec.monitor.keep, keep_best=0),
        "healthy",
      )
    if spec.monitor.action != "off":
      self._heldout = open_heldout(built)

  def get_state(self) -> dict[str, Any]:
    """What a checkpoint keeps, as plain JSON."""
    return {
      "verdict": self._verdict.get_state(),
      "retries": self._retries,
      "unresolved": self._unresolved,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on where `get_state` was called."""
    verdict = state["verdict"]
    self._verdict.set_state(verdict)
    self._retries = state["retries"]
    self._unresolved = state["unresolved"]
    # An alarm that is still on: what follows is not kept as healthy.
    self._level = verdict["level"]
    self._onset = verdict["onset"] or 0

  def expect_change(self, step: int) -> None:
    """Learns anew what is usual from a step on: settings have changed."""
    self._verdict.quiet_until(step + self._spec.verdict.quiet)

  def _place_kinks(self) -> None:
    """Steps of the schedules' bends, which are fixed in images."""
    count = self._recorder.count
    kinks = map(count.step_of, self._built.spec.kinks_kimg)
    self._verdict.kinks = sorted(kinks)

  def probe(self, step: int, state: GanState, batch: Batch) -> Scalars:
    """The probe's scalars where it is due after a step, else none."""
    if self._heldout is None or not self.is_probed(step):
      return {}
    where = batch_sharding(self._built.mesh)
    try:
      heldout = self._heldout.batch(step // self._spec.interval)
    except Exception:
      # The others look at this step, too, and wait for this process.
      self._report_failure(step)
      heldout = self._heldout.batch(0)
    return self._built.probe(state, batch, rows.to_global(heldout, where))

  def start(self, step: int, state: GanState) -> None:
    """Keeps the state that the run starts or goes on from."""
    if self._ring is not None and self._level == "ok":
      self._take(step, state)
      self._remember(step)

  def is_probed(self, step: int) -> bool:
    """Whether the dear numbers of a step are wanted, too."""
    return step % self._spec.interval == 0

  def keep(self, step: int, state: GanState) -> None:
    """Takes a snapshot where one is due after a step and all is well."""
    due = step % self._spec.snapshot_interval == 0
    if self._ring is not None and due and self._level == "ok":
      self._take(step, state)

  def judge(self, step: int, row: Mapping[str, float]) -> bool:
    """Whether to go back, of a step whose numbers have come.

    Raises:
      DivergedError: the run is lost, and the monitor is not to go back.
    """
    if self._spec.action == "off":
      _refuse_nonfinite(step, row)
      return False
    try:
      decision = self._verdict.update(step, row)
    except Exception:
      self._report_failure(step)
      self._remember_if_due(step)
      _refuse_nonfinite(step, row)
      return False
    self._level = decision.level
    self._remember_if_due(step)
    if decision.new:
      self._tell(decision)
      self._onset = step if decision.onset is None else decision.onset
    if decision.level in ("ok", "warn"):
      return False
    # A run that an alarm did not stop may be lost later.
    lost = _lost(row)
    if not (decision.new or lost):
      return False
    back = self._spec.action == "rollback"
    # What follows may look calm again because ill has become usual.
    self._unresolved = not back
    # Each retry goes further: the seed of it may be older than what it shows.
    rewind = self._spec.rewind * 2**self._retries if back else 0
    target, failed = None, False
    try:
      target = self._secure(step, max(0, self._onset - rewind))
    except Exception:
      self._report_failure(step)
      failed = True
    if back and not failed:
      self._target = target
      return True
    if lost:
      raise DivergedError(step, lost, target)
    return False

  def go_back(self, step: int) -> tuple[GanState, int, dict[str, float] | None]:
    """Returns to the healthy state that `judge` has saved.

    Args:
      step: the last one that was dispatched.

    Returns:
      The state to go on from, its step, and what the checkpoint of this step
      scored: the moving average that was scored is not changed.

    Raises:
      DivergedError: there is none, or it was tried often enough.
    """
    target = self._target
    if target is None or self._retries >= self._spec.retries:
      why = "no state is kept from before it"
      if target is not None:
        why = f"{self._retries} rollbacks did not help"
      raise DivergedError(step, why, target)
    self._retries += 1
    self.attempt += 1
    # From disk: what cannot be read there is no healthy checkpoint.
    restored = self._healthy.restore(self._built.abstract_state, target)
    state, turned = self._turned(restored.state, target)
    scores = self._checkpoints.scores(target)
    self._checkpoints.set_aside(target - 1, self.attempt - 1)
    self._ring.forget_after(target)
    skipped = self._move_data(restored.data)
    self._verdict.set_state(restored.meta["monitor"]["verdict"])
    self._verdict.quiet_until(target + self._spec.verdict.quiet)
    self._level = "ok"
    self._recorder.start_attempt(self.attempt, step, target)
    self._place_kinks()
    self._recorder.event(
      "rollback",
      step,
      to_step=target,
      onset=self._onset,
      retry=self._retries,
      skipped=skipped,
      turned=turned,
      **self._recorder.changed_batches(),
    )
    self._recorder.note(
      f"step {step}: back to step {target}, attempt {self.attempt}"
    )
    return state, target, scores

  def secure(self, step: int) -> None:
    """Saves the newest healthy state, of a run that is about to be ended."""
    if self._ring is None or self._unresolved:
      return
    try:
      self._secure(step, step if self._level == "ok" else self._onset)
    except Exception:
      self._report_failure(step)

  def finish(self, step: int, state: GanState) -> None:
    """Saves the newest healthy state, the last one if all is well.

    After an alarm that nobody acted on, the state saved at it stays.
    """
    if self._ring is None or self._unresolved:
      return
    if self._level == "ok":
      self._take(step, state)
      self._remember(step)
    self.secure(step)

  def close(self) -> None:
    """Waits for what is being written."""
    if self._healthy is not None:
      self._healthy.close()

  def _secure(self, step: int, onset: int) -> int | None:
    """Puts the newest healthy state up to `onset` on disk: its step.

    From host memory or, where that goes back less far, from a checkpoint.
    """
    if self._ring is None:
      return None
    # Between processes Orbax's barriers have the same names in all managers.
    self._checkpoints.wait()
    self._ring.forget_after(onset)
    snapshot = self._ring.newest(onset + 1)
    if snapshot is None:
      target = self._secure_from_disk(step, onset)
    else:
      target = snapshot.step
      self._save(
        target,
        self._ring.restore(snapshot),
        snapshot.data,
        self._verdicts[target],
      )
    kind = "no_healthy_state" if target is None else "healthy"
    self._recorder.event(kind, step, of_step=target, onset=onset)
    return target

  def _secure_from_disk(self, step: int, onset: int) -> int | None:
    kept = set(self._healthy.steps())
    steps = sorted(kept | set(self._checkpoints.steps()), reverse=True)
    # Process 0's view of a shared disk.
    for target in multihost.decide("kept", lambda: steps):
      if target > onset:
        continue
      where = self._healthy if target in kept else self._checkpoints
      try:
        restored = where.restore(self._built.abstract_state, target)
      except DamagedError as error:
        self._recorder.event(
          "damaged_checkpoint", step, of_step=target, why=str(error)
        )
        continue
      if target in kept:
        return target
      verdict = restored.meta.get("monitor", {}).get("verdict")
      if verdict and verdict["level"] == "ok":
        self._save(target, restored.state, restored.data, verdict)
        return target
    return None

  def _save(
    self,
    step: int,
    state: GanState,
    data: Mapping[str, Any],
    verdict: Mapping[str, Any],
  ) -> None:
    """Writes healthy/STEP, whole when this returns."""
    # Orbax would not save a step older than one that turned out ill.
    self._healthy.set_aside(step, self.attempt)
    watched = self.get_state() | {"verdict": verdict, "unresolved": False}
    meta = self._recorder.meta(step) | {"monitor": watched}
    self._healthy.save(step, state, data, meta)
    self._healthy.wait()

  def _turned(
    self, state: GanState, step: int
  ) -> tuple[GanState, dict[str, Any]]:
    """The state gone back to, with the interventions made."""
    older = None
    if "older_d" in self._spec.interventions:
      before = self._ring.newest(step)
      older = self._ring.restore(before) if before else None
    state, turned = interventions.make(state, self._spec, self._retries, older)
    attempt = interventions.filled(state.attempt, self.attempt)
    return state._replace(attempt=attempt), turned

  def _move_data(self, data: Mapping[str, Any]) -> tuple[int, int] | None:
    """Sets the stream back to `data` and skips what was read since."""
    here = self._stream.get_state()
    left_out = here["skipped"]
    if self._spec.data == "replay":
      self._stream.set_state(data)
      return None
    # Of earlier rollbacks, too, which a state from before them does not know.
    self._stream.set_state({**data, "skipped": left_out})
    # In records: batches may have been of another size when the state was.
    return self._stream.skip(
      here["records_consumed"] - data["records_consumed"]
    )

  def _take(self, step: int, state: GanState) -> None:
    self._ring.take(step, state, self._stream.get_state())

  def _remember_if_due(self, step: int) -> None:
    if self._ring is not None and step % self._spec.snapshot_interval == 0:
      self._remember(step)

  def _remember(self, step: int) -> None:
    """The verdict's state, as long as there is a snapshot of this step."""
    self._verdicts[step] = self._verdict.get_state()
    held = self._ring.held
    self._verdicts = {k: v for k, v in self._verdicts.items() if k in held}

  def _tell(self, decision: Decision) -> None:
    """Writes down what changed, and why."""
    reasons = [reason._asdict() for reason in decision.reasons]
    self._recorder.event(
      "verdict",
      decision.step,
      level=decision.level,
      onset=decision.onset,
      reasons=reasons,
    )
    if decision.level == "ok":
      return
    what = "; ".join(reason.as_text() for reason in decision.reasons[:3])
    self._recorder.note(f"step {decision.step}: {decision.level}: {what}")

  def _report_failure(self, step: int) -> None:
    """A monitor that fails must not take a run of weeks with it."""
    if not self._failed:
      _log.exception("the monitor failed at step %d; training goes on", step)
      self._recorder.event("monitor_failed", step)
    self._failed = True


def _refuse_nonfinite(step: int, row: Mapping[str, float]) -> None:
  """Raises `DivergedError` where a loss is no number: nothing can go on."""
  lost = _lost(row)
  if lost:
    raise DivergedError(step, lost)


def _lost(row: Mapping[str, float]) -> str:
  """Which loss is no number, "" where all are."""
  return next(
    (
      f"{name} is {row[name]}"
      for name in ("d/loss", "g/loss")
      if name in row and not math.isfinite(row[name])
    ),
    "",
  )
