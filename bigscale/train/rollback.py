"""Acts on the monitor's verdicts: events, healthy checkpoints and rollbacks.

The verdict itself (`monitor/verdict`) only reads scalars. All processes have
the same scalars and make the same decisions.
"""

import logging
from collections.abc import Mapping
from typing import Any

from bigscale.data.stream import Stream
from bigscale.metrics.features import Features
from bigscale.monitor.verdict import Decision, Verdict
from bigscale.parallel import rows
from bigscale.parallel.sharding import batch_sharding
from bigscale.train import interventions
from bigscale.train.anchors import Anchors, Look
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.diverged import (
  DivergedError,
  nonfinite_loss,
  refuse_nonfinite,
)
from bigscale.train.healthy import HealthyStates
from bigscale.train.reals import open_heldout
from bigscale.train.recorder import Recorder
from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.types import Batch

_log = logging.getLogger(__name__)


class Guard:
  """Monitors one run, keeps healthy states and rolls back to them.

  Attributes:
    attempt: number of rollbacks of the run.
  """

  def __init__(
    self,
    built: Built,
    stream: Stream,
    checkpoints: Checkpoints,
    recorder: Recorder,
    attempt: int,
  ) -> None:
    """Initializes the monitor.

    Raises:
      SpecError: if the snapshots do not fit into this host's memory.
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
    # Step to roll back to; None if no earlier state is kept.
    self._target: int | None = None
    self._save_asked = False
    self._states = self._heldout = None
    if spec.monitor.action in ("checkpoint", "rollback"):
      self._states = HealthyStates(built, checkpoints, recorder)
    # The anchor compares nothing until `open_anchor`.
    self._anchors = Anchors(built, stream, recorder)
    if spec.monitor.action != "off":
      self._heldout = open_heldout(built)

  def get_state(self) -> dict[str, Any]:
    """Returns the state to store in a checkpoint, as plain JSON."""
    return {
      "verdict": self._verdict.get_state(),
      "retries": self._retries,
      "unresolved": self._unresolved,
      "anchors": self._anchors.get_state(),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Restores a state from `get_state`."""
    verdict = state["verdict"]
    self._verdict.set_state(verdict)
    self._anchors.set_state(state.get("anchors", {}))
    self._retries = state["retries"]
    self._unresolved = state["unresolved"]
    # During an alarm, further states are not kept as healthy.
    self._level = verdict["level"]
    self._onset = verdict["onset"] or 0
    self._pin()

  def expect_change(self, step: int) -> None:
    """Restarts the verdict's baselines because settings change at a step."""
    self._verdict.quiet_until(step + self._spec.verdict.quiet)

  def _place_kinks(self) -> None:
    """Converts the kinks of the schedules from images to steps."""
    count = self._recorder.count
    kinks = map(count.step_of, self._built.spec.kinks_kimg)
    self._verdict.kinks = sorted(kinks)

  @property
  def wants_anchor(self) -> bool:
    """Whether the run is compared with an anchor."""
    return self._spec.action != "off" and self._spec.anchor.images > 0

  def open_anchor(
    self, step: int, network: Features | None, *, accept: bool
  ) -> None:
    """Opens the anchor; see `Anchors.open`."""
    self._anchors.open(step, network, accept=accept)

  def look(self, step: int, state: GanState, batch: Batch) -> Look | None:
    """Starts the comparisons with the anchor that are due after a step."""
    return self._anchors.look(step, state, batch)

  def compare(
    self, step: int, look: Look | None, row: Mapping[str, float]
  ) -> dict[str, float]:
    """Returns the scalars of a step's comparisons; call once for each step."""
    return self._anchors.read(step, look, row)

  def probe(self, step: int, state: GanState, batch: Batch) -> Scalars:
    """Returns the probe's scalars if it is due after a step, else {}."""
    if self._heldout is None or not self.is_probed(step):
      return {}
    where = batch_sharding(self._built.mesh)
    try:
      heldout = self._heldout.batch(step // self._spec.interval)
    except Exception:
      # The other processes run the probe and wait for this process.
      self._report_failure(step)
      heldout = self._heldout.batch(0)
    return self._built.probe(state, batch, rows.to_global(heldout, where))

  def start(self, step: int, state: GanState) -> None:
    """Takes a snapshot of the state that the run starts from."""
    if self._states is not None and self._level == "ok":
      self._take(step, state)
      self._remember(step)

  def is_probed(self, step: int) -> bool:
    """Returns whether the expensive probe runs after a step."""
    return step % self._spec.interval == 0

  def keep(self, step: int, state: GanState) -> None:
    """Takes a snapshot if one is due after a step and there is no alarm.

    A warning does not stop snapshots: one from before its onset is pinned.
    """
    due = step % self._spec.snapshot_interval == 0
    if self._states is not None and due and self._level != "rollback":
      self._take(step, state)

  def _last_good(self) -> int:
    """Returns the last step before the onset, which is the first bad step."""
    return max(0, self._onset - 1)

  def _pin(self) -> None:
    """Keeps a state from before the onset for as long as a suspicion lasts."""
    if self._states is not None:
      self._states.pin(None if self._level == "ok" else self._last_good())

  def take_save_request(self) -> bool:
    """Returns whether the current state is to be saved, once per request.

    It is at an alarm that has no healthy state to return to.
    """
    asked, self._save_asked = self._save_asked, False
    return asked

  def evidence(self) -> dict[str, float]:
    """Returns the verdict's evidence at the last judged step, in nats."""
    return {f"monitor/{k}": x for k, x in self._verdict.evidence.items()}

  def judge_scores(self, step: int, scores: Mapping[str, float]) -> bool:
    """Judges the scores of a step and returns whether to roll back.

    Raises:
      DivergedError: if the run diverged and the monitor may not roll back.
    """
    if self._spec.action == "off" or not scores:
      return False
    return self.judge(step, {f"eval/{name}": x for name, x in scores.items()})

  def judge(self, step: int, row: Mapping[str, float]) -> bool:
    """Judges the scalars of a step and returns whether to roll back.

    Raises:
      DivergedError: if the run diverged and the monitor may not roll back.
    """
    if self._spec.action == "off":
      refuse_nonfinite(step, row)
      return False
    try:
      decision = self._verdict.update(step, row)
    except Exception:
      self._report_failure(step)
      self._remember_if_due(step)
      refuse_nonfinite(step, row)
      return False
    self._level = decision.level
    self._remember_if_due(step)
    if decision.new:
      self._report(decision)
      self._onset = step if decision.onset is None else decision.onset
      self._pin()
    if decision.level in ("ok", "warn"):
      return False
    # A run that continued after an alarm may diverge later.
    lost = nonfinite_loss(row)
    if not (decision.new or lost):
      return False
    back = self._spec.action == "rollback"
    # Without a rollback, later scalars may seem normal only because the
    # baselines have adapted to the failure.
    self._unresolved = not back
    # Each retry goes further back: the cause may precede its first symptom.
    rewind = self._spec.rewind * 2**self._retries if back else 0
    target, failed = None, False
    try:
      target = self._secure(step, max(0, self._last_good() - rewind))
    except Exception:
      self._report_failure(step)
      failed = True
    if back and not failed and (target is not None or lost):
      self._target = target
      return True
    if back and target is None:
      self._save_asked = self._unresolved = True
      self._recorder.note(
        f"step {step}: no state from before step {self._onset} is kept, so the "
        "run is not rolled back; the current state is saved"
      )
    if lost:
      raise DivergedError(step, lost, target)
    return False

  def go_back(self, step: int) -> tuple[GanState, int, dict[str, float] | None]:
    """Rolls back to the healthy state that `judge` saved.

    Args:
      step: last dispatched step.

    Returns:
      The state to continue from, its step, and the scores of that step's
      checkpoint. The scores stay valid, because interventions do not change the
      moving average.

    Raises:
      DivergedError: if there is no healthy state or no retry is left.
    """
    target = self._target
    if target is None or self._retries >= self._spec.retries:
      why = "no earlier healthy state is available"
      if target is not None:
        why = f"{self._retries} rollbacks did not help"
      raise DivergedError(step, why, target)
    self._retries += 1
    self.attempt += 1
    restored = self._states.restore(target)
    state, turned = self._turned(restored.state, target)
    scores = self._checkpoints.scores(target)
    self._checkpoints.set_aside(target - 1, self.attempt - 1)
    skipped = self._move_data(restored.data)
    self._verdict.set_state(restored.meta["monitor"]["verdict"])
    self._anchors.set_state(restored.meta["monitor"].get("anchors", {}))
    self._verdict.quiet_until(target + self._spec.verdict.quiet)
    self._level = "ok"
    self._pin()
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
      f"step {step}: rolled back to step {target}, attempt {self.attempt}"
    )
    return state, target, scores

  def secure(self, step: int) -> None:
    """Saves the newest healthy state before the run ends."""
    if self._states is None or self._unresolved:
      return
    try:
      self._secure(step, step if self._level == "ok" else self._last_good())
    except Exception:
      self._report_failure(step)

  def finish(self, step: int, state: GanState) -> None:
    """Saves the newest healthy state, which is the last one without alarm.

    If an alarm was not followed by a rollback, the state saved then is kept.
    """
    if self._states is None or self._unresolved:
      return
    if self._level == "ok":
      self._take(step, state)
      self._remember(step)
    self.secure(step)

  def close(self) -> None:
    """Waits until all saves are complete."""
    if self._states is not None:
      self._states.close()

  def _secure(self, step: int, newest: int) -> int | None:
    """Saves the newest healthy state up to `newest` and returns its step."""
    if self._states is None:
      return None
    onset = step if self._level == "ok" else self._onset
    return self._states.secure(
      step, newest, onset, self.attempt, self.get_state()
    )

  def _turned(
    self, state: GanState, step: int
  ) -> tuple[GanState, dict[str, Any]]:
    """Returns the restored state after interventions, and their values."""
    older = None
    if "older_d" in self._spec.interventions:
      older = self._states.before(step)
    state, turned = interventions.make(state, self._spec, self._retries, older)
    attempt = interventions.filled(state.attempt, self.attempt)
    return state._replace(attempt=attempt), turned

  def _move_data(self, data: Mapping[str, Any]) -> tuple[int, int] | None:
    """Resets the stream to `data` and skips the records read since."""
    here = self._stream.get_state()
    left_out = here["skipped"]
    if self._spec.data == "replay":
      self._stream.set_state(data)
      return None
    # Keep the ranges skipped by earlier rollbacks, which `data` may predate.
    self._stream.set_state({**data, "skipped": left_out})
    # Counted in records, because the batch size may have changed since.
    return self._stream.skip(
      here["records_consumed"] - data["records_consumed"]
    )

  def _take(self, step: int, state: GanState) -> None:
    self._states.take(step, state, self._stream.get_state())

  def _remember_if_due(self, step: int) -> None:
    if self._states is not None and step % self._spec.snapshot_interval == 0:
      self._remember(step)

  def _remember(self, step: int) -> None:
    watched = {
      "verdict": self._verdict.get_state(),
      "anchors": self._anchors.get_state(),
    }
    self._states.remember(step, watched)

  def _report(self, decision: Decision) -> None:
    """Writes an event and a note for a new level, with the reasons."""
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
    text = "; ".join(reason.as_text() for reason in decision.reasons[:3])
    self._recorder.note(f"step {decision.step}: {decision.level}: {text}")

  def _report_failure(self, step: int) -> None:
    """Logs the first failure of the monitor; training continues."""
    if not self._failed:
      _log.exception("the monitor failed at step %d; training continues", step)
      self._recorder.event("monitor_failed", step)
    self._failed = True
