"""Runs drills and records their results.

Each drill trains once with `monitor.action="checkpoint"`, so the monitor does
not intervene and the scores show the effect of the fault alone. If the fault
ruined the run and the monitor raised an alarm, some drills train again with
rollbacks: with the fault removed by the rollback, like a corrected setting, and
with the fault persisting (`Drill.recoveries`). Each finished drill writes one
row to `drills.jsonl` and is not run again.

Drills of the same model and seed are identical until the fault begins. They
therefore branch off the undisturbed run, the trunk, shortly before the fault.
The steps that they share with it are counted once.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from bigscale.monitor.drills.plan import Drill
from bigscale.monitor.drills.runs import Run, has_states, prune
from bigscale.monitor.drills.stages import Stage
from bigscale.monitor.drills.table import end_of_row
from bigscale.train.writers import JsonLines

# Maximum number of rollbacks of a run.
_RETRIES = 2


class Drills:
  """Runs drills and records their results in a folder."""

  def __init__(self, out: pathlib.Path, keep_runs: bool = False) -> None:
    """Opens the folder.

    Args:
      out: folder of `drills.jsonl` and the runs.
      keep_runs: whether to keep the checkpoints of the runs.
    """
    self._out = out
    self._keep_runs = keep_runs
    self._rows = JsonLines(out / "drills.jsonl")
    self._stages: dict[tuple[str, str], Stage] = {}

  def rows(self) -> list[dict[str, Any]]:
    """Returns the rows of the finished drills."""
    return self._rows.rows()

  def run(
    self, drills: Iterable[Drill]
  ) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Runs the unfinished drills; yields their rows and their twins'.

    The undisturbed run that drills branch off is run first, and its
    checkpoints are deleted after the last of them.
    """
    for trunk, group in itertools.groupby(drills, lambda d: d.trunk):
      left = [drill for drill in group if not self._is_done(drill)]
      if not left:
        continue
      row = self.grow(trunk, any(drill.branches for drill in left))
      if row is not None:
        yield row, row
      for drill in left:
        if drill != trunk:
          yield self._run_and_write(drill), self.twin(drill)
      if not self._keep_runs:
        prune(self.folder(trunk))

  def stage(self, drill: Drill) -> Stage:
    """Returns the programs of a drill, which drills of one model share."""
    key = drill.stage, drill.watch
    return self._stages.setdefault(key, Stage(*key))

  def folder(self, drill: Drill, how: str = "watched") -> pathlib.Path:
    """Returns the folder of one run of a drill."""
    return self._out / "runs" / f"{drill.name}-{how}"

  def twin(self, drill: Drill) -> dict[str, Any] | None:
    """Returns the row of the undisturbed drill; None if it has not run."""
    name = drill.trunk.name
    return next((row for row in self.rows() if row["name"] == name), None)

  def _is_done(self, drill: Drill) -> bool:
    return any(row["name"] == drill.name for row in self.rows())

  def grow(self, trunk: Drill, states: bool = True) -> dict[str, Any] | None:
    """Runs an undisturbed drill unless its row and states exist.

    Args:
      trunk: the undisturbed drill.
      states: whether its checkpoints are needed.

    Returns:
      Its row if it is new, else None.
    """
    if not self._is_done(trunk):
      return self._run_and_write(trunk)
    if states and not has_states(self.folder(trunk), trunk.total_steps):
      # Its states were deleted after an earlier call.
      self.make(trunk).train()
    return None

  def _run_and_write(self, drill: Drill) -> dict[str, Any]:
    started = time.time()
    row = describe(drill) | self._watched(drill)
    row["seconds"] = round(time.time() - started, 1)
    self._rows.write(row)
    return row

  def _watched(self, drill: Drill) -> dict[str, Any]:
    run = self.make(drill)
    found = run.train()
    if found["alarm"]:
      found["healthy"] = run.score_healthy(found["alarm"]["step"])
    if drill != drill.trunk and not self._keep_runs:
      prune(run.folder)
    row = describe(drill) | found
    lost = end_of_row(row, self.twin(drill)).outcome == "lost"
    wanted = drill.kind.is_fault and lost and found["alarm"]
    if wanted and drill.recoveries:
      found["recovery"] = {
        cause: self._rolled_back(drill, cause) for cause in drill.recoveries
      }
    return found

  def _rolled_back(self, drill: Drill, cause: str) -> dict[str, Any]:
    started = time.time()
    run = self.make(
      drill, cause, action="rollback", retries=_RETRIES, interventions=()
    )
    found = run.train()
    if not self._keep_runs:
      prune(run.folder)
    return found | {"seconds": round(time.time() - started, 1)}

  def make(
    self,
    drill: Drill,
    how: str = "watched",
    *,
    clamps: bool = False,
    **monitor: Any,
  ) -> Run:
    """Returns one run of a drill, ready to train.

    Args:
      drill: the drill.
      how: suffix of the run's folder; with `removed`, a rollback removes the
        fault.
      clamps: whether a rollback clamps singular values.
      **monitor: fields of `MonitorSpec`.
    """
    stage = self.stage(drill)
    monitor = {"action": "checkpoint", **monitor}
    # A declared change happens in the middle of a run.
    variant = "" if drill.kind.declared else drill.kind.variant
    return Run(
      drill,
      stage,
      self.folder(drill, how),
      self.folder(drill.trunk) if drill.branches else None,
      stage.spec(drill.steps, seed=drill.seed, variant=variant, **monitor),
      stage.built(variant, clamps=clamps),
      persists=how != "removed",
    )


def describe(drill: Drill) -> dict[str, Any]:
  """Returns the columns of a row that do not depend on the results."""
  kind = drill.kind
  return {
    "name": drill.name,
    **dataclasses.asdict(drill),
    "family": kind.family,
    "fault": kind.is_fault,
    "seen": kind.seen,
    "from_start": kind.from_start,
    "start": drill.start,
    "total_steps": drill.total_steps,
    # The undisturbed drill counts the steps before the disturbance.
    "shared_steps": drill.start if drill.branches else 0,
  }


def as_line(row: dict[str, Any], twin: dict[str, Any] | None) -> str:
  """Formats a drill's row as one line of text."""
  alarm, healthy = row["alarm"], row.get("healthy")
  end = end_of_row(row, twin)
  parts = [f"{row['name']}: disturbed at {row['start']}", end.outcome]
  if end.lost_step is not None:
    parts[-1] += f" at {end.lost_step} ({end.why})"
  if end.ratio is not None:
    parts[-1] += f", {end.ratio:.2f} of its twin"
  if alarm:
    signals = ", ".join(reason["signal"] for reason in alarm["reasons"][:3])
    parts.append(f"alarm at {alarm['step']} ({signals})")
  if healthy:
    parts.append(f"healthy {healthy['step']} scores {healthy['score']}")
  for cause, found in row.get("recovery", {}).items():
    again = end_of_row({**row, **found}, twin)
    ratio = "no score" if again.ratio is None else f"{again.ratio:.2f}"
    parts.append(f"{cause}: {found['rollbacks']} rollbacks, {ratio}")
  return "; ".join([*parts, f"{row['seconds']} s"])
