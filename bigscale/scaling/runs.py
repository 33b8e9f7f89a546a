"""Trains the runs of a sweep on this host, one after another.

A run that is done or lost is not started again. An interrupted run resumes. So
does a failed run, since the cause of the failure may have been fixed.
"""

import collections
import dataclasses
import json
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from bigscale.data.reading import identities_of
from bigscale.metrics.evaluator import Evaluator
from bigscale.parallel.mesh import make_mesh
from bigscale.place import open_place
from bigscale.report.history import count_in, counts_by_attempt, standing
from bigscale.report.read import read_lines
from bigscale.scaling.folders import folder_of
from bigscale.scaling.sweep import SweepRun
from bigscale.spec import RunSpec, SpecError, to_json
from bigscale.train import loop
from bigscale.train.build import Built, build
from bigscale.train.diverged import DivergedError
from bigscale.train.evaluation import evaluator_of
from bigscale.train.folder import write_whole
from bigscale.train.preemption import PreemptedError

# Maximum number of cached compiled steps, and of cached evaluators with their
# real features.
_CACHE_SIZE = 4
# File in a run's folder with the reason for its last failure.
_FAILURE_FILE = "failed.txt"


class RunOutcome(NamedTuple):
  """How a run ended.

  Attributes:
    status: `done`; `lost` if values were not finite or the monitor stopped the
      run; `failed` for any other reason.
    step: number of steps taken; None if the run failed.
    why: reason; "" if the run is done.
  """

  status: str
  step: int | None = None
  why: str = ""

  @property
  def is_final(self) -> bool:
    """Whether the run should not be started again."""
    return self.status in ("done", "lost")


def outcome_of(out: epath.Path, run: SweepRun) -> RunOutcome | None:
  """Returns how a run ended, or None if it has not ended."""
  folder = folder_of(out, run)
  events = read_lines(open_place(folder), "events", [])
  counts = counts_by_attempt(standing(events))
  # The batch size may have changed during the run.
  count = count_in(counts) if counts else run.spec.count
  total = count.step_of(run.spec.total_kimg)
  for event in reversed(events):
    kind, step = event.get("event"), event.get("step", 0)
    if kind == "done" and step >= total:
      return RunOutcome("done", step)
    if kind == "lost":
      return RunOutcome("lost", step, event.get("why", ""))
  try:
    why = open_place(folder).read(_FAILURE_FILE).decode(errors="replace")
    return RunOutcome("failed", None, why)
  except FileNotFoundError:
    return None


def is_over(out: epath.Path, run: SweepRun) -> bool:
  """Returns whether a run is done or lost."""
  known = outcome_of(out, run)
  return known is not None and known.is_final


def part(runs: Iterable[SweepRun], share: int, parts: int) -> list[SweepRun]:
  """Returns every `parts`-th run, starting with run number `share`, from 1."""
  return list(runs)[share - 1 :: parts]


class Runner:
  """Trains the runs of a sweep in one folder."""

  def __init__(self, out: epath.Path) -> None:
    """Creates a runner for the sweep folder `out`, without reading it."""
    self._out = out
    self._built: collections.OrderedDict[str, Built] = collections.OrderedDict()
    self._evaluators: collections.OrderedDict[str, Evaluator] = (
      collections.OrderedDict()
    )

  def run(
    self, runs: Iterable[SweepRun]
  ) -> Iterator[tuple[SweepRun, RunOutcome]]:
    """Trains the runs that are neither done nor lost, and yields each outcome.

    If a run fails, for example because its settings do not fit the data, the
    remaining runs still train.

    Raises:
      PreemptedError: SIGTERM was received; the current run is checkpointed.
    """
    for run in runs:
      if not is_over(self._out, run):
        yield run, self._run_one(run, folder_of(self._out, run))

  def _run_one(self, run: SweepRun, folder: epath.Path) -> RunOutcome:
    open_place(folder).delete(_FAILURE_FILE)
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
    """Returns the compiled step and the evaluator of a spec, cached.

    Runs that differ only in `seed`, `data.subset` and `data.classes` share the
    step.
    """
    data = dataclasses.replace(spec.data, subset=0)
    program = _key(
      dataclasses.replace(
        spec, seed=0, data=dataclasses.replace(data, classes=0)
      )
    )
    if program not in self._built:
      _evict(self._built)
      self._built[program] = build(spec, make_mesh(spec.mesh))
    # A run that trains on a subset is still scored against the whole data set.
    # The key includes the content, since files may change during a sweep.
    content = "; ".join(identities_of(data))
    scores = f"{_key((spec.model, data, spec.evaluate))} {content}"
    if scores not in self._evaluators:
      _evict(self._evaluators)
      self._evaluators[scores] = evaluator_of(spec)
    built = self._built[program]._replace(spec=spec)
    return loop.Prepared(built, self._evaluators[scores])


def _fail(folder: epath.Path, why: str) -> RunOutcome:
  write_whole(folder / _FAILURE_FILE, why)
  return RunOutcome("failed", None, why)


def _key(specs: Any) -> str:
  """Returns a cache key that is equal for equal settings."""
  parts = specs if isinstance(specs, tuple) else (specs,)
  return json.dumps([to_json(part) for part in parts], sort_keys=True)


def _evict(kept: collections.OrderedDict[str, Any]) -> None:
  while len(kept) >= _CACHE_SIZE:
    kept.popitem(last=False)
