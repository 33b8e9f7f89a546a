"""Runs drills: small real trainings with injected faults, to score the monitor.

Every drill trains once with `monitor.action="checkpoint"`, which does not
intervene, so its scores show the effect of the fault alone. If the fault ruined
the run and the monitor raised an alarm, the drill trains again with rollback.
Each drill writes one row to `drills.jsonl`. A drill with a row does not run
again.

Drills of the same model and seed are identical until they are disturbed.
Therefore they start from a checkpoint of the undisturbed run, shortly before
the disturbance. The shared steps are counted once.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bigscale.monitor import faults
from bigscale.monitor.drill_stages import (
  SMALL,
  STAGES,
  TEST,
  TUNING,
  Stage,
)
from bigscale.monitor.scoring import lost_step
from bigscale.train import loop
from bigscale.train.build import Built
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.disturb import Disturbance
from bigscale.train.hooks import DivergedError, draw_for_scores
from bigscale.train.writers import JsonLines
from bigscale.types import Batch

_SCORE = "fd_classifier"
# Minimum number of steps between the start of a drill and its disturbance.
_LEAD_IN = 60
# These drills do not start from a checkpoint of the undisturbed run.
_OWN_START = ("undisturbed", "small_batch")


@dataclasses.dataclass(frozen=True)
class Drill:
  """One run of the table.

  Attributes:
    group: `tuning` or `test`.
    stage: name of the training in `STAGES`.
    what: name of the disturbance in `faults.FAULTS` or `faults.CONTROLS`.
    seed: seed of the run and of the disturbance.
    steps: number of steps of the run; None uses the number in `STAGES`, as the
      published table does.
  """

  group: str
  stage: str
  what: str
  seed: int
  steps: int | None = None

  @property
  def name(self) -> str:
    """Name of the drill's row and folder."""
    name = f"{self.group}-{self.stage}-{self.what}-{self.seed}"
    return name if self.steps is None else f"{name}-{self.steps}"

  @property
  def total_steps(self) -> int:
    """Number of steps of a run that does not end early."""
    return STAGES[self.stage][2] if self.steps is None else self.steps

  @property
  def trunk(self) -> "Drill | None":
    """The undisturbed run that this drill starts from, or None."""
    if self.what in _OWN_START:
      return None
    return dataclasses.replace(self, what="undisturbed")

  @property
  def is_fault(self) -> bool:
    """Whether the disturbance is a fault and not a control."""
    return self.what in faults.FAULTS

  @property
  def start(self) -> int:
    """First disturbed step, at 45 to 65% of the run."""
    # `hash` of a string differs between processes.
    number = sum(ord(c) * 31**i for i, c in enumerate(self.name)) % 2**32
    share = np.random.default_rng(number).uniform(0.45, 0.65)
    return int(share * self.total_steps)

  @property
  def size(self) -> float:
    """Size of the disturbance; see `faults`."""
    _, tuning, test = (faults.FAULTS | faults.CONTROLS)[self.what]
    return tuning if self.group == "tuning" else test


def plan(
  groups: Sequence[str], fault_seeds: int, control_seeds: int
) -> list[Drill]:
  """Returns all drills, interleaved so that every prefix is a fair sample."""
  seeds = {"tuning": 1000, "test": 6000}
  found = []
  for turn in range(max(fault_seeds, control_seeds)):
    for group in groups:
      for stage in {"tuning": TUNING, "test": TEST}[group]:
        names = list(faults.CONTROLS) if turn < control_seeds else []
        names += list(faults.FAULTS) if turn < fault_seeds else []
        found += [Drill(group, stage, w, seeds[group] + turn) for w in names]
  return found


def part(drills: Sequence[Drill], share: int, parts: int) -> list[Drill]:
  """Returns one of `parts` parts; drills of one trunk stay together.

  `share` counts from 1.
  """
  trunks = dict.fromkeys((d.group, d.stage, d.seed) for d in drills)
  mine = set(list(trunks)[share - 1 :: parts])
  return [d for d in drills if (d.group, d.stage, d.seed) in mine]


class InterruptionError(Exception):
  """Interrupts a drill on purpose. The drill then resumes its run."""


class _InterruptOnce(Disturbance):
  def __init__(self, step: int) -> None:
    self._step = step

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if step == self._step:
      self._step = 0
      raise InterruptionError
    return batch


class Drills:
  """Runs drills into one folder."""

  def __init__(self, out: pathlib.Path, keep_runs: bool = False) -> None:
    """Opens the folder.

    Args:
      out: folder of `drills.jsonl` and of the runs.
      keep_runs: whether to keep the checkpoints of the runs.
    """
    self._out = out
    self._keep_runs = keep_runs
    self._rows = JsonLines(out / "drills.jsonl")
    self._stages: dict[str, Stage] = {}

  def rows(self) -> list[dict[str, Any]]:
    """Returns the rows of the finished drills."""
    return self._rows.rows()

  def run(self, drills: Iterable[Drill]) -> Iterable[dict[str, Any]]:
    """Runs unfinished drills and their trunks, and yields their rows."""
    for drill in drills:
      if self._is_done(drill):
        continue
      trunk = drill.trunk
      if trunk and not self._is_done(trunk):
        yield self._run_and_write(trunk)
      yield self._run_and_write(drill)

  def _is_done(self, drill: Drill) -> bool:
    return any(row["name"] == drill.name for row in self.rows())

  def _run_and_write(self, drill: Drill) -> dict[str, Any]:
    row = self._run_one(drill)
    self._rows.write(row)
    return row

  def _folder(self, drill: Drill, action: str) -> pathlib.Path:
    return self._out / "runs" / f"{drill.name}-{action}"

  def _run_one(self, drill: Drill) -> dict[str, Any]:
    started = time.time()
    stage = self._stages.setdefault(drill.stage, Stage(drill.stage))
    seen = self._train(drill, stage, action="checkpoint")
    row = {
      "name": drill.name,
      **dataclasses.asdict(drill),
      "fault": drill.is_fault,
      "start": drill.start,
      "size": drill.size,
      "total_steps": drill.total_steps,
      **seen,
    }
    # The trunk counts these steps.
    row["shared_steps"] = drill.start if drill.trunk else 0
    row["lost_step"] = lost_step(row["scores"], row["ended"])
    if drill.is_fault and row["lost_step"] and row["alarm"]:
      row["recovery"] = self._train(drill, stage, action="rollback")
    row["seconds"] = round(time.time() - started, 1)
    return row

  def _train(self, drill: Drill, stage: Stage, action: str) -> dict[str, Any]:
    """Trains once and returns the outcome; see `read`."""
    run = self._folder(drill, action)
    # An interrupted drill starts from the beginning.
    shutil.rmtree(run, ignore_errors=True)
    if drill.trunk:
      branch(
        self._folder(drill.trunk, "checkpoint"), run, drill.start - _LEAD_IN
      )
    small = drill.what == "small_batch"
    built = stage.small_batch if small else stage.built
    spec = stage.spec(
      drill.steps,
      seed=drill.seed,
      divisor=SMALL if small else 1,
      action=action,
      **_extra(action),
    )
    disturbance = faults.make(
      drill.what,
      faults.Scene(
        drill.start, drill.size, drill.seed, {"beta2": stage.wrong_beta2}
      ),
    )
    if drill.what == "resume":
      disturbance = _InterruptOnce(drill.start)
    prepared = loop.Prepared(
      built._replace(spec=spec), stage.evaluator, disturbance
    )
    ended = None
    try:
      with contextlib.suppress(InterruptionError):
        loop.train(spec, run, prepared=prepared)
      if drill.what == "resume":
        loop.train(spec, run, prepared=prepared)
    except DivergedError as error:
      ended = error.step
    first = drill.start if drill.trunk else 0
    found = read(run, first) | {"ended": ended}
    if found["alarm"] and action == "checkpoint":
      alarm = found["alarm"]["step"]
      found["healthy"] = self._score_healthy(run, prepared, alarm)
    if not self._keep_runs and drill.what != "undisturbed":
      for name in ("checkpoints", "healthy", "abandoned"):
        shutil.rmtree(run / name, ignore_errors=True)
    return found

  def _score_healthy(
    self, run: pathlib.Path, prepared: loop.Prepared, alarm: int
  ) -> dict[str, Any] | None:
    """Returns step and score of the checkpoint saved at the alarm."""
    saved = [
      e for e in _events(run) if e["event"] == "healthy" and e["step"] >= alarm
    ]
    if not saved:
      return None
    step = saved[0]["of_step"]
    built: Built = prepared.built
    checkpoints = CheckpointReader(run, "healthy")
    try:
      if step not in checkpoints.steps():
        return {"step": step, "score": None}
      state = checkpoints.restore(built.abstract_state, step).state
    finally:
      checkpoints.close()
    evaluator = prepared.evaluator
    drawn = draw_for_scores(built, state.ema, evaluator.asked)
    score = evaluator.score(drawn)[_SCORE]
    return {"step": step, "score": score}


def _extra(action: str) -> dict[str, Any]:
  return {"retries": 2} if action == "rollback" else {}


def as_line(row: dict[str, Any]) -> str:
  """Returns a drill's row as a line of text."""
  alarm, healthy = row["alarm"], row.get("healthy")
  parts = [f"{row['name']}: disturbed at {row['start']}"]
  lost = row["lost_step"]
  parts.append("not lost" if lost is None else f"lost at {lost}")
  if alarm:
    signals = ", ".join(reason["signal"] for reason in alarm["reasons"][:3])
    parts.append(f"alarm at {alarm['step']} ({signals})")
  if healthy:
    parts.append(f"healthy {healthy['step']} scores {healthy['score']}")
  if "recovery" in row:
    scores = row["recovery"]["scores"]
    parts.append(f"rolled back, last score {scores[-1][1] if scores else None}")
  return "; ".join([*parts, f"{row['seconds']} s"])


def branch(trunk: pathlib.Path, run: pathlib.Path, before: int) -> int:
  """Creates the folder of a run that continues from another run's checkpoint.

  Args:
    trunk: folder of the other run.
    run: folder to create.
    before: last step whose checkpoint is copied.

  Returns:
    The step of the newest checkpoint copied; 0 if there is none and the run
    starts from the beginning.
  """
  kept = trunk / "checkpoints"
  steps = [int(p.name) for p in kept.glob("*") if p.name.isdigit()]
  step = max((s for s in steps if s <= before), default=0)
  if step:
    # An alarm may return to earlier checkpoints too.
    for name in (str(s) for s in steps if s <= step):
      shutil.copytree(kept / name, run / "checkpoints" / name)
    # The resumed run removes later rows.
    shutil.copy(trunk / "metrics.jsonl", run / "metrics.jsonl")
  return step


def read(run: pathlib.Path, first: int = 0) -> dict[str, Any]:
  """Returns the outcome of a drill's run.

  Args:
    run: folder of the run.
    first: step from which alarms count; earlier alarms are the trunk's.

  Returns:
    scores: pairs [step, Frechet distance].
    alarm: first event at level `rollback`, or None.
    warnings: steps of the warnings.
    rollbacks: number of rollbacks.
    steps: number of steps in all attempts.
    last_step: largest step.
    attempts: number of attempts.
  """
  rows = JsonLines(run / "metrics.jsonl").rows()
  events = _events(run)
  attempt = max((row["attempt"] for row in rows), default=0)
  score = f"eval/{_SCORE}"
  scores = [[r["step"], r[score]] for r in rows if score in r]
  verdicts = [
    e for e in events if e["event"] == "verdict" and e["step"] >= first
  ]
  alarms = [e for e in verdicts if e["level"] in ("rollback", "stop")]
  return {
    "scores": scores,
    "alarm": alarms[0] if alarms else None,
    "warnings": [e["step"] for e in verdicts if e["level"] == "warn"],
    "rollbacks": sum(e["event"] == "rollback" for e in events),
    "steps": len({(r["attempt"], r["step"]) for r in rows}),
    "last_step": max((r["step"] for r in rows), default=0),
    "attempts": attempt + 1,
  }


def _events(run: pathlib.Path) -> list[dict[str, Any]]:
  return JsonLines(run / "events.jsonl").rows()
