"""Drills: small real trainings with faults put in, to score the monitor.

Every drill trains once with a monitor that watches, saves and does not
intervene, so that its scores say what the fault does by itself. Where it did
harm and was seen, the drill trains again with rollback. A row a drill goes to
`drills.jsonl`; drills that have one are not run again.

Drills of one model and seed are the same run until they are disturbed, so they
branch off the undisturbed one, shortly before. What they share is counted once.
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
# Steps before its disturbance that a drill branches off at least.
_LEAD_IN = 60
# Not the undisturbed run's beginning: itself, and another program.
_OWN_START = ("undisturbed", "small_batch")


@dataclasses.dataclass(frozen=True)
class Drill:
  """One run of the table.

  Attributes:
    group: `tuning` or `test`.
    stage: what is trained.
    what: a name of `faults.FAULTS` or `faults.CONTROLS`.
    seed: of the run, of the moment and of what is random in the fault.
    steps: of the run; None for as many as the stage has, which the table is
      made of.
  """

  group: str
  stage: str
  what: str
  seed: int
  steps: int | None = None

  @property
  def name(self) -> str:
    """Names its row and its folder."""
    name = f"{self.group}-{self.stage}-{self.what}-{self.seed}"
    return name if self.steps is None else f"{name}-{self.steps}"

  @property
  def total_steps(self) -> int:
    """Of the run, where nothing ends it."""
    return STAGES[self.stage][2] if self.steps is None else self.steps

  @property
  def trunk(self) -> "Drill | None":
    """The undisturbed run that this one branches off; None of its own."""
    if self.what in _OWN_START:
      return None
    return dataclasses.replace(self, what="undisturbed")

  @property
  def is_fault(self) -> bool:
    """Whether harm is intended."""
    return self.what in faults.FAULTS

  @property
  def start(self) -> int:
    """Step from which the disturbance is there, between 45 and 65%."""
    # A text hashes to another number in every process.
    number = sum(ord(c) * 31**i for i, c in enumerate(self.name)) % 2**32
    share = np.random.default_rng(number).uniform(0.45, 0.65)
    return int(share * self.total_steps)

  @property
  def size(self) -> float:
    """Of the disturbance; see `faults`."""
    _, tuning, test = (faults.FAULTS | faults.CONTROLS)[self.what]
    return tuning if self.group == "tuning" else test


def plan(
  groups: Sequence[str], fault_seeds: int, control_seeds: int
) -> list[Drill]:
  """All drills, by turns over models and kinds, so that a part is a sample."""
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
  """The `share`-th of `parts`, from 1; drills of one trunk stay together."""
  trunks = dict.fromkeys((d.group, d.stage, d.seed) for d in drills)
  mine = set(list(trunks)[share - 1 :: parts])
  return [d for d in drills if (d.group, d.stage, d.seed) in mine]


class InterruptionError(Exception):
  """A drill's own interruption, after which the run is started again."""


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
      out: holds `drills.jsonl` and runs.
      keep_runs: whether the runs' checkpoints stay.
    """
    self._out = out
    self._keep_runs = keep_runs
    self._rows = JsonLines(out / "drills.jsonl")
    self._stages: dict[str, Stage] = {}

  def rows(self) -> list[dict[str, Any]]:
    """Of the drills that are done."""
    return self._rows.rows()

  def run(self, drills: Iterable[Drill]) -> Iterable[dict[str, Any]]:
    """Runs those that are not done, and their trunks; yields each one's row."""
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
    # What others have seen too is theirs.
    row["shared_steps"] = drill.start if drill.trunk else 0
    row["lost_step"] = lost_step(row["scores"], row["ended"])
    if drill.is_fault and row["lost_step"] and row["alarm"]:
      row["recovery"] = self._train(drill, stage, action="rollback")
    row["seconds"] = round(time.time() - started, 1)
    return row

  def _train(self, drill: Drill, stage: Stage, action: str) -> dict[str, Any]:
    """Trains once, and what came of it."""
    run = self._folder(drill, action)
    # A drill that was interrupted starts over.
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
    """Step and score of the checkpoint that the alarm saved."""
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
  """A drill's row for a terminal."""
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
  """Makes the folder of a run that goes on where another stood.

  Args:
    trunk: folder of the other run.
    run: to be made.
    before: the newest checkpoint up to this step is the one; it takes those
      before it along.

  Returns:
    Its step; 0 where there is none, and the run starts anew.
  """
  kept = trunk / "checkpoints"
  steps = [int(p.name) for p in kept.glob("*") if p.name.isdigit()]
  step = max((s for s in steps if s <= before), default=0)
  if step:
    # Earlier ones, too: an alarm may go back to them.
    for name in (str(s) for s in steps if s <= step):
      shutil.copytree(kept / name, run / "checkpoints" / name)
    # The rows after it are cut as the run goes on.
    shutil.copy(trunk / "metrics.jsonl", run / "metrics.jsonl")
  return step


def read(run: pathlib.Path, first: int = 0) -> dict[str, Any]:
  """What the folder of a drill's run says.

  Args:
    run: the folder.
    first: step from which on alarms are its own.

  Returns:
    scores: [step, Frechet distance] of the last attempt.
    alarm: the first one at the level of rollback, None without.
    warnings: steps at which it warned.
    steps: taken in all attempts.
    rollbacks: made.
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
