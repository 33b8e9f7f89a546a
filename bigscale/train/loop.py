"""The walk of one run: build, resume, step, look, save."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from bigscale.data import notes
from bigscale.data.manifest import DataError
from bigscale.data.pipeline import Stream
from bigscale.metrics.evaluate import Evaluator
from bigscale.parallel import multihost, rows
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import RunSpec, require, to_json
from bigscale.train import folder as folders
from bigscale.train import hooks
from bigscale.train.build import Built, build, compile_everywhere
from bigscale.train.checkpoint import Checkpoints, Restored
from bigscale.train.claim import Claim
from bigscale.train.disturb import Disturbance
from bigscale.train.guard import Guard
from bigscale.train.init_from import (
  Start,
  apply_start,
  has_checkpoint,
  read_start,
)
from bigscale.train.meter import Meter
from bigscale.train.preemption import PreemptedError, Preemption
from bigscale.train.reals import open_stream
from bigscale.train.scoring import Scoring
from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.types import Batch


class Result(NamedTuple):
  """How a training ended.

  Attributes:
    folder: of the run.
    state: after the last step.
    scores: of the last evaluation.
  """

  folder: folders.RunFolder
  state: GanState
  scores: dict[str, float]


class Prepared(NamedTuple):
  """What many short trainings share, and what is done to them.

  Attributes:
    built: of the spec; None builds it.
    evaluator: of the spec's data; None makes it.
    disturbance: of the steps.
  """

  built: Built | None = None
  evaluator: Evaluator | None = None
  disturbance: Disturbance = Disturbance()


def train(
  spec: RunSpec,
  workdir: str | os.PathLike[str],
  command: Sequence[str] = (),
  init_from: str | os.PathLike[str] | None = None,
  prepared: Prepared | None = None,
  data: Sequence[str] = (),
) -> Result:
  """Trains until `spec.total_kimg`, resuming where `workdir` stands.

  Args:
    spec: of the run.
    workdir: its folder, made if need be.
    command: recorded in the folder.
    init_from: folder of another run of the same model, whose newest weights
      and average a new run starts from. A run that resumes has its own.
    prepared: what the caller has made already.
    data: where the data are now, if not where the spec says (`DataSpec.at`).

  Raises:
    SpecError: the spec cannot run here, the folder is another run's, or
      `init_from` has no weights for this model.
    hooks.DivergedError: the run is lost, and the monitor could not save it.
    PreemptedError: SIGTERM came; the run is saved.
  """
  multihost.watch().take_seconds()
  workdir = os.path.expanduser(workdir)
  multihost.assert_same("config", to_json(spec))
  multihost.assert_same("versions", folders.versions())
  prepared = prepared or Prepared()
  new = multihost.decide("new", lambda: not has_checkpoint(workdir))
  spec, moved = folders.with_places(workdir, spec, data, begun=not new)
  built = prepared.built or build(moved, make_mesh(spec.mesh))
  stream = open_stream(built)
  multihost.assert_same("data", {"outline": stream.outline})
  if jax.process_index() == 0:
    notes.warn(notes.of_sources({"train": stream.sources}))
  start = read_start(built, init_from) if init_from and new else None
  claim = Claim()
  folder = _open_folder(workdir, spec, command, claim)
  kept = dataclasses.replace(spec.checkpoint, best=spec.best_score)
  checkpoints = Checkpoints(folder.path, kept)
  try:
    found = _restore_or_init(built, stream, checkpoints, start)
    attempt = int(jax.device_get(found.state.attempt))
    meter = Meter(spec, built.mesh.devices.flat, found.meta)
    recorder = hooks.Recorder(folder, spec, found.step, attempt, meter)
    guard = Guard(built, stream, checkpoints, recorder, attempt)
    try:
      if moved != spec:
        recorder.event("data_moved", found.step, places=moved.data.sources)
      if start:
        recorder.event("init_from", 0, **start.note())
      _report_damage(recorder, found)
      if "monitor" in found.meta:
        guard.set_state(found.meta["monitor"])
      run = _Run(built, stream, checkpoints, folder, recorder, guard, prepared)
      return run.until_the_end(found.state, found.step)
    except hooks.DivergedError as error:
      recorder.event("lost", error.step, why=str(error))
      raise
    finally:
      guard.close()
      recorder.close()
  finally:
    # Without this the last asynchronous save could be lost.
    checkpoints.close()
    stream.close()
    claim.release()


def _report_damage(recorder: hooks.Recorder, found: Restored) -> None:
  """Writes which checkpoints were passed over."""
  for step, why in found.damaged:
    recorder.event("damaged_checkpoint", found.step, of_step=step, why=why)


def _open_folder(
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  command: Sequence[str],
  claim: Claim,
) -> folders.RunFolder:
  """Process 0 makes and claims the folder, and all see it."""
  folder = folders.RunFolder(pathlib.Path(workdir))
  with contextlib.ExitStack() as undo:
    undo.callback(claim.release)
    multihost.decide(
      "folder",
      lambda: str(folders.create(workdir, spec, command, claim).path),
    )
    require(
      folder.spec.is_file(),
      f"--workdir={workdir} is not the same folder on process "
      f"{jax.process_index()} as on process 0; name one on a file system that "
      "all of them share",
    )
    undo.pop_all()
  return folder


def _restore_or_init(
  built: Built, stream: Stream, checkpoints: Checkpoints, start: Start | None
) -> Restored:
  """The newest whole checkpoint, or what a new run starts from."""
  latest = multihost.decide("latest step", checkpoints.latest_step)
  if latest is None:
    state = built.init(np.int32(built.spec.seed))
    if start:
      state = apply_start(state, start)
      # Saved at once: who resumes need not find the other run again.
      checkpoints.save(0, state, stream.get_state(), {"kimg": 0.0})
    return Restored(0, state, stream.get_state(), {})
  restored = checkpoints.restore(built.abstract_state)
  checkpoints.set_damaged_aside(restored.damaged)
  stream.set_state(restored.data)
  logging.info("resuming after step %d", restored.step)
  return restored


class _Pending(NamedTuple):
  """A step whose numbers are on their way."""

  step: int
  scalars: Scalars


class _Run:
  """The loop and what it needs at hand."""

  def __init__(
    self,
    built: Built,
    stream: Stream,
    checkpoints: Checkpoints,
    folder: folders.RunFolder,
    recorder: hooks.Recorder,
    guard: Guard,
    prepared: Prepared,
  ) -> None:
    self._built = built
    self._stream = stream
    self._checkpoints = checkpoints
    self._folder = folder
    self._recorder = recorder
    self._guard = guard
    self._disturbance = prepared.disturbance
    self._preemption = Preemption()
    self._pending: collections.deque[_Pending] = collections.deque()
    self._scoring = Scoring(built, recorder, checkpoints, prepared.evaluator)
    self._watch = multihost.watch()
    self._compiled = False

  def until_the_end(self, state: GanState, first_step: int) -> Result:
    """Steps from `first_step` to the last."""
    watched = multihost.watched(
      self._built.spec.operations.limits,
      common=(hooks.DivergedError, PreemptedError),
    )
    with self._preemption.watching(), watched:
      return self._until_the_end(state, first_step)

  def _until_the_end(self, state: GanState, first_step: int) -> Result:
    spec = self._built.spec
    self._recorder.event(
      "start",
      first_step,
      devices=self._built.mesh.size,
      processes=jax.process_count(),
      dataset_images=self._stream.images,
      parameters={"g": _count(state.g.params), "d": _count(state.d.params)},
      seconds=self._watch.take_seconds(),
    )
    if first_step >= spec.total_steps:
      logging.info("nothing to do: %d steps are done", first_step)
    self._guard.start(first_step, state)
    if first_step and self._every(spec.evaluate.kimg, first_step):
      self._scoring.catch_up(first_step, state)
    step, leaving = first_step, False
    while step < spec.total_steps:
      step += 1
      state = self._one_step(step, state)
      # Two steps in flight: further ahead, batches would fill the devices, and
      # what the host waits for data would say nothing of what they wait.
      ill = self._judge(all_but=step)
      leaving = leaving or self._preemption.asked(step)
      if not ill and (leaving or self._is_due(step)):
        ill = self._judge()
      if ill:
        with self._watch.phase("rollback", step):
          state, step, scores = self._guard.go_back(step)
          self._pending.clear()
          self._save(step, state)
          if scores:
            self._checkpoints.set_scores(step, scores)
        continue
      self._after(step, state)
      if leaving:
        self._leave(step, state)
    with self._watch.phase("checkpoint", step):
      self._guard.finish(step, state)
      self._checkpoints.wait()
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.event("done", step)
    return Result(self._folder, state, self._scoring.last)

  def _leave(self, step: int, state: GanState) -> None:
    """Ends a run that is to be resumed elsewhere."""
    with self._watch.phase("checkpoint", step):
      self._save(step, state)
      self._checkpoints.wait()
      self._guard.secure(step)
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.event("preempted", step)
    raise PreemptedError(
      f"asked to end (SIGTERM): step {step} is saved; start it again to go on"
    )

  def _one_step(self, step: int, state: GanState) -> GanState:
    """Dispatches a step, and what the monitor wants of it."""
    attempt, disturb = self._guard.attempt, self._disturbance
    waited = time.perf_counter()
    with self._watch.phase("data", step):
      batch = disturb.batch(step, attempt, self._next_batch(step))
      batch = rows.to_global(batch, batch_sharding(self._built.mesh))
    self._recorder.waited(time.perf_counter() - waited)
    with self._watch.phase("step" if self._compiled else "compile", step):
      state = disturb.state(step, attempt, state)
      program = disturb.program(step, attempt, self._built.step)
      if not self._compiled:
        compile_everywhere(self._built, state, batch)
      state, scalars = program(state, batch)
      scalars = scalars | self._guard.look(step, state, batch)
      self._guard.keep(step, state)
    self._compiled = True
    self._pending.append(_Pending(step, scalars))
    return state

  def _judge(self, all_but: int | None = None) -> bool:
    """Writes and judges the steps that are done: whether to go back.

    Args:
      all_but: a step that may still be running.
    """
    while self._pending and self._pending[0].step != all_but:
      step, scalars = self._pending.popleft()
      written = self._recorder.is_due(step)
      if not (written or self._guard.looks_at(step)):
        # There are hundreds of singular values, and they change slowly.
        scalars = {k: x for k, x in scalars.items() if "/sigma" not in k}
      with self._watch.phase("step", step):
        row = {k: float(x) for k, x in jax.device_get(scalars).items()}
      if written:
        self._recorder.step(step, row)
        self._recorder.times_if_due(step, self._watch.take_seconds)
      if self._guard.judge(step, row):
        return True
    return False

  def _is_due(self, step: int) -> bool:
    """Whether grids, scores or checkpoints follow a step."""
    log, spec = self._built.spec.log, self._built.spec
    kimgs = (spec.evaluate.kimg, log.samples_kimg, spec.checkpoint.kimg)
    return any(self._every(kimg, step) for kimg in kimgs)

  def _every(self, kimg: float, step: int) -> bool:
    every = self._built.spec.every(kimg)
    last = step == self._built.spec.total_steps
    return last or (every > 0 and step % every == 0)

  def _after(self, step: int, state: GanState) -> None:
    """Grids, scores and checkpoints that are due after this step."""
    if not self._is_due(step):
      return
    spec = self._built.spec
    started = time.perf_counter()
    self._report_faults(step)
    if self._every(spec.log.samples_kimg, step):
      with self._watch.phase("samples", step):
        hooks.draw_grid(
          self._built, self._folder, self._recorder, step, state.ema
        )
    scored = self._every(spec.evaluate.kimg, step)
    if scored or self._every(spec.checkpoint.kimg, step):
      with self._watch.phase("checkpoint", step):
        self._save(step, state)
    if scored:
      self._scoring.run(step, state)
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.pause(time.perf_counter() - started)

  def _save(self, step: int, state: GanState) -> None:
    self._checkpoints.save(
      step,
      state,
      self._stream.get_state(),
      self._recorder.meta(step) | {"monitor": self._guard.get_state()},
    )

  def _next_batch(self, step: int) -> Batch:
    try:
      return next(self._stream)
    except DataError:
      # What led to it; the others do not come to a meeting any more.
      for fault in self._stream.take_faults():
        self._recorder.event("bad_record", step, **fault._asdict())
      raise

  def _report_faults(self, step: int) -> None:
    """Lists the records that were replaced, on any process."""
    faults = [fault._asdict() for fault in self._stream.take_faults()]
    for fault in multihost.gather("bad records", faults):
      self._recorder.event("bad_record", step, **fault)


def _count(params: object) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))
