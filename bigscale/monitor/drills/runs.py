"""Trains one run of a drill and reads its results."""

import contextlib
import pathlib
import shutil
from typing import Any, NamedTuple

from bigscale.metrics.evaluator import Evaluator
from bigscale.monitor.dead import dead_step
from bigscale.monitor.drills.disturbances import Scene
from bigscale.monitor.drills.plan import Drill
from bigscale.monitor.drills.stages import SCORE_STEPS, Stage
from bigscale.spec import RunSpec
from bigscale.train import loop
from bigscale.train.build import Built
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.disturb import Disturbance
from bigscale.train.diverged import DivergedError
from bigscale.train.drawing import draw_for_scores
from bigscale.train.writers import JsonLines
from bigscale.types import Batch

SCORE = "fd_classifier"
# Minimum number of steps between the branch point and the disturbance.
LEAD_IN = 60
# Controls whose run is interrupted once and started again.
_INTERRUPTED = ("resume", "half_rates_declared")


class InterruptionError(Exception):
  """Interrupts a run, which is then started again."""


class _InterruptOnce(Disturbance):
  def __init__(self, step: int) -> None:
    self._step = step

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if step == self._step:
      self._step = 0
      raise InterruptionError
    return batch


class Run(NamedTuple):
  """What one training run of a drill consists of.

  Attributes:
    drill: the drill.
    stage: programs and evaluator.
    folder: folder of the run.
    trunk: folder of the undisturbed run; None if the run does not branch off.
    spec: spec of the run.
    built: functions of the run.
    persists: whether the fault outlasts a rollback.
  """

  drill: Drill
  stage: Stage
  folder: pathlib.Path
  trunk: pathlib.Path | None
  spec: RunSpec
  built: Built
  persists: bool = False

  @property
  def evaluator(self) -> Evaluator:
    """Evaluator of the run's data."""
    return self.stage.evaluator

  def train(self) -> dict[str, Any]:
    """Trains and returns the results; see `read`."""
    drill = self.drill
    # An interrupted drill is repeated from its beginning.
    shutil.rmtree(self.folder, ignore_errors=True)
    if self.trunk:
      branch(self.trunk, self.folder, drill.start - LEAD_IN)
    ended = None
    try:
      self._train(self._disturbance())
    except DivergedError as error:
      ended = error.step
    first = drill.start if drill.branches or drill.kind.is_fault else 0
    return read(self.folder, first) | {"ended": ended}

  def _train(self, disturbance: Disturbance) -> None:
    given = loop.Prepared(
      self.built._replace(spec=self.spec), self.evaluator, disturbance
    )
    if self.drill.what not in _INTERRUPTED:
      loop.train(self.spec, self.folder, prepared=given)
      return
    interrupting = given._replace(disturbance=_InterruptOnce(self.drill.start))
    with contextlib.suppress(InterruptionError):
      loop.train(self.spec, self.folder, prepared=interrupting)
    spec = self.spec
    kind = self.drill.kind
    if kind.declared:
      spec = self.stage.spec(
        self.drill.steps,
        seed=self.drill.seed,
        variant=kind.variant,
        action=spec.monitor.action,
      )
      built = self.stage.built(kind.variant)._replace(spec=spec)
      given = given._replace(built=built)
    loop.train(spec, self.folder, prepared=given, change=kind.declared)

  def _disturbance(self) -> Disturbance:
    drill = self.drill
    scene = Scene(drill.start, drill.seed, self.persists, self.stage.tools)
    return drill.kind.make(scene)

  def score_healthy(self, alarm: int) -> dict[str, Any] | None:
    """Returns the step and score of the state that was saved at an alarm."""
    saved = [
      e
      for e in events(self.folder)
      if e["event"] == "healthy" and e["step"] >= alarm
    ]
    if not saved:
      return None
    step = saved[0]["of_step"]
    checkpoints = CheckpointReader(self.folder, "healthy")
    try:
      if step not in checkpoints.steps():
        return {"step": step, "score": None}
      state = checkpoints.restore(self.built.abstract_state, step).state
    finally:
      checkpoints.close()
    drawn = draw_for_scores(self.built, state.ema, self.evaluator.asked)
    return {"step": step, "score": self.evaluator.score(drawn)[SCORE]}


def branch(trunk: pathlib.Path, run: pathlib.Path, before: int) -> int:
  """Creates the folder of a run that continues from a checkpoint of another.

  Args:
    trunk: folder of the existing run.
    run: folder to create.
    before: last step that may be copied. All checkpoints up to this step are
      copied. The run continues from the newest of them.

  Returns:
    The step that the run continues from; 0 if there is no such checkpoint. The
    run then starts from the beginning.
  """
  kept = trunk / "checkpoints"
  steps = [int(p.name) for p in kept.glob("*") if p.name.isdigit()]
  step = max((s for s in steps if s <= before), default=0)
  if step:
    # An alarm may return to any of the earlier checkpoints.
    for name in (str(s) for s in steps if s <= step):
      shutil.copytree(kept / name, run / "checkpoints" / name)
    # Training removes the rows after the step that it continues from.
    shutil.copy(trunk / "metrics.jsonl", run / "metrics.jsonl")
  return step


def prune(run: pathlib.Path) -> None:
  """Deletes the states of a run and keeps its rows and events."""
  for name in ("checkpoints", "healthy", "abandoned", "samples"):
    shutil.rmtree(run / name, ignore_errors=True)


def read(run: pathlib.Path, first: int = 0) -> dict[str, Any]:
  """Reads the results of a drill from its run's folder.

  Args:
    run: the run's folder.
    first: first step whose alarms and warnings count.

  Returns:
    A dict of
      scores: pairs of a step and its Frechet distance, of the last attempt
        that reached the step.
      alarm: event of the first alarm of level `rollback`; None without one.
      alarms: steps of all such alarms.
      warnings: steps of the warnings.
      dead: step from which D was dead until the end; None if it was not.
      rollbacks: number of rollbacks.
      last_step: highest step that has a row.
      attempts: number of attempts.
  """
  rows = JsonLines(run / "metrics.jsonl").rows()
  found = events(run)
  attempt = max((row["attempt"] for row in rows), default=0)
  verdicts = [
    e for e in found if e["event"] == "verdict" and e["step"] >= first
  ]
  alarms = [e for e in verdicts if e["level"] in ("rollback", "stop")]
  last = [row for row in rows if row["attempt"] == attempt]
  # Rows are in the order of attempts, so later ones replace earlier ones. The
  # rows after a rollback's step belong to an attempt that was left.
  again = min((row["step"] for row in last), default=0)
  kept = [r for r in rows if r["attempt"] == attempt or r["step"] < again]
  score = f"eval/{SCORE}"
  scores = {r["step"]: r[score] for r in kept if score in r}
  return {
    "scores": sorted(scores.items()),
    "alarm": alarms[0] if alarms else None,
    "alarms": [e["step"] for e in alarms],
    "warnings": [e["step"] for e in verdicts if e["level"] == "warn"],
    "dead": dead_step(last),
    "rollbacks": sum(e["event"] == "rollback" for e in found),
    "last_step": max((r["step"] for r in rows), default=0),
    "attempts": attempt + 1,
  }


def events(run: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the events of a run."""
  return JsonLines(run / "events.jsonl").rows()


def has_states(run: pathlib.Path, steps: int) -> bool:
  """Returns whether a run's folder has all of its checkpoints."""
  kept = run / "checkpoints"
  return all(
    (kept / str(step)).is_dir()
    for step in range(SCORE_STEPS, steps + 1, SCORE_STEPS)
  )
