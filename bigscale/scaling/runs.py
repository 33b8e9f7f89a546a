"""Runs the runs of a sweep here, one after the other.

A run that is done or collapsed is not run again; one that was broken off goes
on, and so does one that failed, since what made it fail may be mended.
"""

import collections
import dataclasses
import json
import pathlib
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from absl import logging

from bigscale.data.reading import identities_of
from bigscale.metrics.evaluator import Evaluator
from bigscale.parallel.mesh import make_mesh
from bigscale.report.history import count_in, counts_by_attempt, standing
from bigscale.report.read import read_lines
from bigscale.scaling.folders import folder_of
from bigscale.scaling.sweep import SweepRun
from bigscale.spec import RunSpec, SpecError, to_json
from bigscale.train import loop
from bigscale.train.build import Built, build
from bigscale.train.folder import write_whole
from bigscale.train.hooks import DivergedError, evaluator_of
from bigscale.train.preemption import PreemptedError

# Compiled steps, and evaluators with their reals, that are kept for the next.
_KEPT = 4
# In a run's folder: why its last start failed.
_FAILED = "failed.txt"


class RunOutcome(NamedTuple):
  """How a run ended.

  Attributes:
    status: `done`; `lost`, to numbers that are not finite or stopped by the
      monitor; `failed`, for any other reason.
    step: steps taken; None where it failed.
    why: "" where done.
  """

  status: str
  step: int | None = None
  why: str = ""

  @property
  def is_final(self) -> bool:
    """Whether to run it again would change nothing."""
    return self.status in ("done", "lost")


def outcome_of(out: pathlib.Path, run: SweepRun) -> RunOutcome | None:
  """How a run ended, whoever ran it; None where it has not."""
  folder = folder_of(out, run)
  events = read_lines(folder / "events.jsonl", [])
  counts = counts_by_attempt(standing(events))
  # Its batch size may have changed on the way.
  count = count_in(counts) if counts else run.spec.count
  total = count.step_of(run.spec.total_kimg)
  for event in reversed(events):
    kind, step = event.get("event"), event.get("step", 0)
    if kind == "done" and step >= total:
      return RunOutcome("done", step)
    if kind == "lost":
      return RunOutcome("lost", step, event.get("why", ""))
  try:
    return RunOutcome("failed", None, (folder / _FAILED).read_text())
  except FileNotFoundError:
    return None


def is_over(out: pathlib.Path, run: SweepRun) -> bool:
  """Whether a run has come to its end."""
  known = outcome_of(out, run)
  return known is not None and known.is_final


def part(runs: Iterable[SweepRun], share: int, parts: int) -> list[SweepRun]:
  """The `share`-th of `parts`, from 1: every so many-th run."""
  return list(runs)[share - 1 :: parts]


class Runner:
  """Runs a sweep into one folder."""

  def __init__(self, out: pathlib.Path) -> None:
    """Nothing is read or written yet."""
    self._out = out
    self._built: collections.OrderedDict[str, Built] = collections.OrderedDict()
    self._evaluators: collections.OrderedDict[str, Evaluator] = (
      collections.OrderedDict()
    )

  def run(
    self, runs: Iterable[SweepRun]
  ) -> Iterator[tuple[SweepRun, RunOutcome]]:
    """Runs those that are not at their end; yields each as it ends.

    What ails one, its settings for this data, say, need not ail the others:
    they go on.

    Raises:
      PreemptedError: SIGTERM came; the run at hand is saved.
    """
    for run in runs:
      if not is_over(self._out, run):
        yield run, self._run_one(run, folder_of(self._out, run))

  def _run_one(self, run: SweepRun, folder: pathlib.Path) -> RunOutcome:
    (folder / _FAILED).unlink(missing_ok=True)
    try:
      result = loop.train(
        run.spec,
        folder,
        ("bigscale scaling sweep", run.name),
        prepared=self._prepare(run.spec),
      )
    except DivergedError as error:
      return RunOutcome("lost", error.step, str(error))
    except PreemptedError:
      raise
    except SpecError as error:
      return _fail(folder, str(error))
    except Exception as error:
      logging.error("run %s:\n%s", run.name, traceback.format_exc())
      return _fail(folder, f"{type(error).__name__}: {error}")
    return RunOutcome("done", int(result.state.step))

  def _prepare(self, spec: RunSpec) -> loop.Prepared:
    """What runs that differ in seed or data alone have in common."""
    data = dataclasses.replace(spec.data, subset=0)
    program = _key(
      dataclasses.replace(
        spec, seed=0, data=dataclasses.replace(data, classes=0)
      )
    )
    if program not in self._built:
      _make_room(self._built)
      self._built[program] = build(spec, make_mesh(spec.mesh))
    # Whatever part of the data a run may see, it is scored against all.
    # In the days of a sweep files may change.
    content = "; ".join(identities_of(data))
    scores = f"{_key((spec.model, data, spec.evaluate))} {content}"
    if scores not in self._evaluators:
      _make_room(self._evaluators)
      self._evaluators[scores] = evaluator_of(spec)
    built = self._built[program]._replace(spec=spec)
    return loop.Prepared(built, self._evaluators[scores])


def _fail(folder: pathlib.Path, why: str) -> RunOutcome:
  folder.mkdir(parents=True, exist_ok=True)
  write_whole(folder / _FAILED, why)
  return RunOutcome("failed", None, why)


def _key(specs: Any) -> str:
  """Text that is equal for equal settings."""
  parts = specs if isinstance(specs, tuple) else (specs,)
  return json.dumps([to_json(part) for part in parts], sort_keys=True)


def _make_room(kept: collections.OrderedDict[str, Any]) -> None:
  while len(kept) >= _KEPT:
    kept.popitem(last=False)
