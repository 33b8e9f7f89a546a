"""The training loop: build, resume, step, monitor, save."""

import collections
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.data import notes
from bigscale.data.manifest import DataError
from bigscale.data.stream import Stream
from bigscale.parallel import multihost, rows
from bigscale.parallel.interruption import InterruptedWorkError
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import RunSpec, to_json
from bigscale.train import folder as folders
from bigscale.train import resume
from bigscale.train.anchors import Look
from bigscale.train.build import Built, build, compile_everywhere
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.diverged import DivergedError
from bigscale.train.drawing import draw_grid
from bigscale.train.evaluation import open_on_main
from bigscale.train.executable import with_saved_step
from bigscale.train.init_from import has_checkpoint, read_start
from bigscale.train.preemption import PreemptedError, Preemption
from bigscale.train.prepared import Prepared, Result
from bigscale.train.programs import ProgramCache
from bigscale.train.reals import open_stream
from bigscale.train.recorder import Recorder
from bigscale.train.rollback import Guard
from bigscale.train.scoring import Scoring
from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.train.trackers import opening as trackers
from bigscale.types import Batch


def train(
  spec: RunSpec,
  workdir: str | os.PathLike[str],
  command: Sequence[str] = (),
  init_from: str | os.PathLike[str] | None = None,
  prepared: Prepared | None = None,
  data: Sequence[str] = (),
  change: bool = False,
  accept_data: bool = False,
  executable: str | None = None,
) -> Result:
  """Trains until `spec.total_kimg`, resuming from the checkpoint in `workdir`.

  Args:
    spec: spec of the run.
    workdir: run folder, created if necessary.
    command: command line to record.
    init_from: folder of a run whose newest weights initialize a new run.
    prepared: objects that the caller provides.
    data: current locations of the data (`DataSpec.at`).
    change: allow other learning rates and another batch size (`spec.changes`).
    accept_data: accept repaired records (`Stream.set_state`).
    executable: file of a compiled step (`executable.with_saved_step`).

  Raises:
    SpecError: if the spec, scores, folder or `init_from` cannot be used.
    DivergedError: if the run diverged and could not be rolled back.
    PreemptedError: if SIGTERM arrived; the run is saved.
  """
  workdir, prepared = os.path.expanduser(workdir), prepared or Prepared()
  _check(spec)
  begun = multihost.decide("begun", lambda: has_checkpoint(workdir))
  spec, moved = folders.with_places(workdir, spec, data, begun=begun)
  built = prepared.built or build(moved, make_mesh(spec.mesh))
  built = with_saved_step(built, workdir, executable)
  stream = _open_data(built)
  start = read_start(built, init_from) if init_from and not begun else None
  prepared = prepared if begun else _open_scores(prepared, built)
  folder, changes = resume.open_folder(
    built, workdir, spec, command, change=change, begun=begun
  )
  checkpoints = resume.open_checkpoints(folder, spec)
  programs = ProgramCache(folder.path, spec).open()
  try:
    found = resume.restore(built, stream, checkpoints, start, accept_data)
    changes += resume.changes_since(folder, found, spec, change=change)
    recorder = resume.open_recorder(folder, spec, built.mesh, found)
    checkpoints.attend(recorder, spec.operations.unsaved_seconds)
    guard = Guard(built, stream, checkpoints, recorder, found.attempt)
    try:
      accepted = resume.report(recorder, stream, found, start, moved != spec)
      if begun and found.step < recorder.total_steps:
        prepared = _open_scores(prepared, built)
      if "monitor" in found.meta:
        guard.set_state(found.meta["monitor"])
      resume.take_changes(recorder, guard, found.step, changes, accepted)
      resume.write_spec(folder, built, spec, command, changes)
      run = _Run(built, stream, checkpoints, folder, recorder, guard, prepared)
      return run.until_the_end(found.state, found.step, accept_data)
    except DivergedError as error:
      recorder.event("lost", error.step, why=str(error))
      raise
    finally:
      guard.close()
      recorder.close()
  finally:
    checkpoints.close()
    stream.close()
    programs.close()
    folder.release()


def _check(spec: RunSpec) -> None:
  """Checks what can be checked without the run's folder and data."""
  multihost.watch().take_seconds()
  multihost.assert_same("config", to_json(spec))
  multihost.assert_same("versions", folders.versions())
  trackers.check(spec)


def _open_data(built: Built) -> Stream:
  """Opens the stream, compares the data of all processes and logs warnings."""
  stream = open_stream(built)
  multihost.assert_same("data", {"outline": stream.outline})
  if multihost.is_main():
    notes.warn(notes.of_sources({"train": stream.sources}))
  return stream


def _open_scores(prepared: Prepared, built: Built) -> Prepared:
  """Opens the inputs of the scores unless the caller provides them."""
  if prepared.evaluator is not None:
    return prepared
  return prepared._replace(evaluator=open_on_main(built.spec))


class _Pending(NamedTuple):
  """A dispatched step whose scalars have not been read yet."""

  step: int
  scalars: Scalars
  look: Look | None = None


class _Run:
  """The training loop of one start."""

  def __init__(
    self,
    built: Built,
    stream: Stream,
    checkpoints: Checkpoints,
    folder: folders.RunFolder,
    recorder: Recorder,
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
    self._scoring = Scoring(
      built, recorder, checkpoints, self._preemption, prepared.evaluator
    )
    self._watch = multihost.watch()
    self._compiled = False

  def until_the_end(
    self, state: GanState, first_step: int, accept_data: bool
  ) -> Result:
    """Runs all steps after `first_step`.

    Args:
      state: state after `first_step`.
      first_step: number of steps done.
      accept_data: see `train`.
    """
    watched = multihost.watched(
      self._built.spec.operations.limits,
      common=(DivergedError, PreemptedError),
    )
    with self._preemption.watching(), watched:
      return self._until_the_end(state, first_step, accept_data)

  def _until_the_end(
    self, state: GanState, first_step: int, accept_data: bool
  ) -> Result:
    spec = self._built.spec
    self._recorder.event(
      "start",
      first_step,
      devices=self._built.mesh.size,
      processes=jax.process_count(),
      microbatches=spec.microbatches_on(self._built.mesh.size),
      dataset_images=self._stream.images,
      family=spec.model.title or spec.model.name,
      parameters={"g": _count(state.g.params), "d": _count(state.d.params)},
      compiler_options=dict(self._built.compiler_options),
      seconds=self._watch.take_seconds(),
      **self._recorder.changed_batches(),
    )
    if first_step >= self._recorder.total_steps:
      self._recorder.note(self._scoring.nothing_to_do(first_step))
    if not self._open_anchor(first_step, accept_data):
      self._leave(first_step, state)
    self._guard.start(first_step, state)
    step, leaving, go_back = first_step, False, False
    if first_step and self._every(spec.evaluate.kimg, first_step):
      if not self._scoring.catch_up(step, state):
        self._leave(step, state)
      scores = self._checkpoints.scores(step) or {}
      go_back = self._guard.judge_scores(step, scores)
    while step < self._recorder.total_steps or go_back:
      if go_back:
        state, step = self._go_back(step)
        go_back = False
        continue
      self._recorder.check()
      step += 1
      state = self._one_step(step, state)
      # At most two steps are in flight. With more, batches would fill device
      # memory, and the host's data wait would not reflect the devices' wait.
      go_back = self._judge(all_but=step)
      leaving = leaving or self._preemption.asked()
      if not go_back and (leaving or self._is_due(step)):
        go_back = self._judge()
      if go_back:
        continue
      if self._guard.take_save_request():
        self._save(step, state)
      scored = self._scoring.count
      if self._after(step, state, leaving):
        self._leave(step, state)
      if self._scoring.count > scored:
        go_back = self._guard.judge_scores(step, self._scoring.last.scores)
    with self._watch.phase("checkpoint", step):
      self._guard.finish(step, state)
      self._checkpoints.finish(step, lambda: self._save(step, state))
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.event("done", step)
    return Result(self._folder, state, *self._scoring.last)

  def _open_anchor(self, step: int, accept_data: bool) -> bool:
    """Opens the anchor; returns False if the run was asked to end."""
    interval = self._built.spec.monitor.interval
    next_look = step - step % interval + interval
    if not self._guard.wants_anchor or next_look > self._recorder.total_steps:
      return True
    with self._watch.phase("anchor", step):
      try:
        network = self._scoring.network(step)
      except InterruptedWorkError:
        return False
      self._guard.open_anchor(step, network, accept=accept_data)
    return True

  def _go_back(self, step: int) -> tuple[GanState, int]:
    """Rolls back; returns the state to continue from, and its step."""
    with self._watch.phase("rollback", step):
      state, step, scores = self._guard.go_back(step)
      self._pending.clear()
      self._save(step, state)
      if scores is not None:
        self._checkpoints.set_scores(step, scores)
    return state, step

  def _leave(self, step: int, state: GanState) -> None:
    """Saves the run and raises `PreemptedError`."""
    with self._watch.phase("checkpoint", step):
      self._save(step, state)
      self._checkpoints.finish(step, lambda: self._save(step, state))
      self._guard.secure(step)
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.event("preempted", step)
    raise PreemptedError(
      f"asked to end (SIGTERM): step {step} is saved; start the run again to "
      "resume"
    )

  def _one_step(self, step: int, state: GanState) -> GanState:
    """Dispatches a step and its probe, and takes a snapshot if due."""
    attempt, disturb = self._guard.attempt, self._disturbance
    waited = time.perf_counter()
    with self._watch.phase("data", step):
      batch = disturb.batch(step, attempt, self._next_batch(step))
      batch = rows.to_global(batch, batch_sharding(self._built.mesh))
    self._recorder.waited(time.perf_counter() - waited)
    phase, started = "step" if self._compiled else "compile", time.monotonic()
    with self._watch.phase(phase, step), self._recorder.dispatching(step):
      state = disturb.state(step, attempt, state)
      program = disturb.program(step, attempt, self._built.step)
      inputs = (state, batch, *self._shown_before(step))
      if not self._compiled:
        compile_everywhere(self._built, inputs)
      state, scalars = program(*inputs)
      scalars = scalars | self._guard.probe(step, state, batch)
      look = self._guard.look(step, state, batch)
      self._guard.keep(step, state)
    if not self._compiled:
      self._recorder.compiled(time.monotonic() - started)
    self._compiled = True
    self._recorder.dispatched(step, scalars)
    self._pending.append(_Pending(step, scalars, look))
    return state

  def _shown_before(self, step: int) -> tuple[np.floating, ...]:
    """Returns the number of images before a step; () in a uniform run."""
    count = self._recorder.count
    if count.is_uniform:
      return ()
    return (np.dtype(jnp.result_type(float)).type(count.images(step - 1)),)

  def _judge(self, all_but: int | None = None) -> bool:
    """Writes and judges finished steps; returns whether to roll back.

    Args:
      all_but: step to leave pending because it may still be running.
    """
    while self._pending and self._pending[0].step != all_but:
      step, scalars, look = self._pending.popleft()
      written = self._recorder.is_due(step)
      if not (written or self._guard.is_probed(step)):
        # There may be hundreds of singular values. They are costly to copy, and
        # they change slowly.
        scalars = {k: x for k, x in scalars.items() if "/sigma" not in k}
      with self._watch.phase("step", step):
        row = {k: float(x) for k, x in jax.device_get(scalars).items()}
        self._recorder.finished()
        row |= self._guard.compare(step, look, row)
      if written:
        self._recorder.step(step, row | self._guard.evidence())
        self._recorder.times_if_due(step, self._watch.take_seconds)
      if self._guard.judge(step, row):
        return True
    return False

  def _is_due(self, step: int) -> bool:
    """Returns whether samples, scores or a checkpoint are due after a step."""
    log, spec = self._built.spec.log, self._built.spec
    kimgs = (spec.evaluate.kimg, log.samples_kimg, spec.checkpoint.kimg)
    return any(self._every(kimg, step) for kimg in kimgs)

  def _every(self, kimg: float, step: int) -> bool:
    last = step == self._recorder.total_steps
    return last or self._recorder.count.is_due(kimg, step)

  def _after(self, step: int, state: GanState, leaving: bool) -> bool:
    """Writes the due samples, checkpoint and scores; returns whether to end."""
    if not self._is_due(step):
      return leaving
    spec = self._built.spec
    started = time.perf_counter()
    self._report_faults(step)
    if self._every(spec.log.samples_kimg, step):
      with self._watch.phase("samples", step):
        draw_grid(self._built, self._recorder, step, state.ema)
    scored = self._every(spec.evaluate.kimg, step)
    if scored or self._every(spec.checkpoint.kimg, step):
      with self._watch.phase("checkpoint", step):
        self._save(step, state)
    if scored and not leaving:  # If leaving, the next start scores the step.
      leaving = not self._scoring.run(step, state)
    self._recorder.times(step, self._watch.take_seconds())
    self._recorder.pause(time.perf_counter() - started)
    return leaving

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
      # Written without `gather`: the other processes do not get here.
      for fault in self._stream.take_faults():
        self._recorder.event("bad_record", step, **fault._asdict())
      raise

  def _report_faults(self, step: int) -> None:
    """Writes an event for each bad record that any process replaced."""
    faults = [one._asdict() for one in self._stream.take_faults()]
    for fault in multihost.gather("bad records", faults):
      self._recorder.event("bad_record", step, **fault)


def _count(params: object) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))
