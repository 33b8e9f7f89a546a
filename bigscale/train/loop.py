"""The walk of one run: build, resume, step, look, save."""

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import logging

from bigscale.data import pipeline
from bigscale.data.manifest import DataError
from bigscale.data.pipeline import Stream
from bigscale.parallel import multihost
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import RunSpec, require, to_json
from bigscale.train import folder as folders
from bigscale.train import hooks
from bigscale.train.build import Built, build
from bigscale.train.checkpoint import BEST_SCORE, Checkpoints
from bigscale.train.init_from import (
  Start,
  apply_start,
  has_checkpoint,
  read_start,
)
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


def train(
  spec: RunSpec,
  workdir: str | os.PathLike[str],
  command: Sequence[str] = (),
  init_from: str | os.PathLike[str] | None = None,
) -> Result:
  """Trains until `spec.total_kimg`, resuming where `workdir` stands.

  Args:
    spec: of the run.
    workdir: its folder, made if need be.
    command: recorded in the folder.
    init_from: folder of another run of the same model, whose newest weights
      and average a new run starts from. A run that resumes has its own.

  Raises:
    SpecError: the spec cannot run here, the folder is another run's, or
      `init_from` has no weights for this model.
    hooks.DivergedError: a loss became NaN or infinite.
  """
  multihost.assert_same("config", to_json(spec))
  multihost.assert_same("versions", folders.versions())
  built = build(spec, make_mesh(spec.mesh))
  stream = open_stream(built)
  multihost.assert_same("data", {"identity": stream.identity})
  start = None
  new = multihost.decide("new", lambda: not has_checkpoint(workdir))
  if init_from and new:
    start = read_start(built, init_from)
  folder = _open_folder(workdir, spec, command)
  checkpoints = Checkpoints(folder.path, spec.checkpoint)
  try:
    state, first_step = _restore_or_init(built, stream, checkpoints, start)
    recorder = hooks.Recorder(folder, spec, first_step)
    try:
      if start:
        recorder.event("init_from", 0, run=str(start.path), of_step=start.step)
      run = _Run(built, stream, checkpoints, folder, recorder)
      return run.until_the_end(state, first_step)
    finally:
      recorder.close()
  finally:
    # Without this the last asynchronous save could be lost.
    checkpoints.close()
    stream.close()


def open_stream(built: Built) -> Stream:
  """This process's stream of the run's data."""
  spec = built.spec
  return pipeline.make(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    global_batch_size=spec.global_batch_size,
    batches_per_step=spec.batches_per_step,
    seed=spec.seed,
    rows=multihost.local_rows(
      batch_sharding(built.mesh), spec.global_batch_size
    ),
  )


def _open_folder(
  workdir: str | os.PathLike[str], spec: RunSpec, command: Sequence[str]
) -> folders.RunFolder:
  """Process 0 makes the folder, and all see it."""
  folder = folders.RunFolder(pathlib.Path(workdir))
  multihost.decide(
    "folder", lambda: str(folders.create(workdir, spec, command).path)
  )
  require(
    folder.spec.is_file(),
    f"--workdir={workdir} is not the same folder on process "
    f"{jax.process_index()} as on process 0; name one on a file system that "
    "all of them share",
  )
  return folder


def _restore_or_init(
  built: Built, stream: Stream, checkpoints: Checkpoints, start: Start | None
) -> tuple[GanState, int]:
  latest = multihost.decide("latest step", checkpoints.latest_step)
  if latest is None:
    state = built.init()
    if start:
      state = apply_start(state, start)
      # Saved at once: who resumes need not find the other run again.
      checkpoints.save(0, state, stream.get_state(), {"kimg": 0.0})
    return state, 0
  restored = checkpoints.restore(built.abstract_state, latest)
  stream.set_state(restored.data)
  logging.info("resuming after step %d", restored.step)
  return restored.state, restored.step


class _Run:
  """The loop and what it needs at hand."""

  def __init__(
    self,
    built: Built,
    stream: Stream,
    checkpoints: Checkpoints,
    folder: folders.RunFolder,
    recorder: hooks.Recorder,
  ) -> None:
    self._built = built
    self._stream = stream
    self._checkpoints = checkpoints
    self._folder = folder
    self._recorder = recorder
    self._evaluation = hooks.Evaluation(built, recorder)
    self._scores: dict[str, float] = {}

  def until_the_end(self, state: GanState, first_step: int) -> Result:
    """Steps from `first_step` to the last."""
    spec = self._built.spec
    where = batch_sharding(self._built.mesh)
    self._recorder.event(
      "start",
      first_step,
      devices=self._built.mesh.size,
      processes=jax.process_count(),
      parameters={
        "g": _count(state.g.params),
        "d": _count(state.d.params),
      },
    )
    running: Scalars | None = None
    for step in range(first_step + 1, spec.total_steps + 1):
      waited = time.perf_counter()
      batch = multihost.to_global(self._next_batch(step), where)
      waited = time.perf_counter() - waited
      state, scalars = self._built.step(state, batch)
      # Two steps in flight: further ahead, batches would fill the devices, and
      # what the host waits for data would say nothing of what they wait.
      jax.block_until_ready(running)
      running = scalars
      self._recorder.step(step, scalars, waited)
      self._after(step, state)
    if first_step >= spec.total_steps:
      logging.info("nothing to do: %d steps are done", first_step)
    self._recorder.event("done", spec.total_steps)
    return Result(self._folder, state, self._scores)

  def _after(self, step: int, state: GanState) -> None:
    """Grids, scores and checkpoints that are due after this step."""
    spec = self._built.spec
    last = step == spec.total_steps

    def due(kimg: float) -> bool:
      every = spec.every(kimg)
      return last or (every > 0 and step % every == 0)

    evaluate = due(spec.evaluate.kimg)
    if not (
      evaluate or due(spec.log.samples_kimg) or due(spec.checkpoint.kimg)
    ):
      return
    self._recorder.flush()
    started = time.perf_counter()
    self._report_faults(step)
    if due(spec.log.samples_kimg):
      hooks.draw_grid(
        self._built, self._folder, self._recorder, step, state.ema
      )
    if evaluate:
      self._scores = self._evaluation.run(step, state.ema)
      self._recorder.note(
        f"step {step}: {BEST_SCORE} {self._scores[BEST_SCORE]:.4g}"
      )
    if evaluate or due(spec.checkpoint.kimg):
      self._checkpoints.save(
        step,
        state,
        self._stream.get_state(),
        {"kimg": step * spec.images_per_step / 1000},
        {BEST_SCORE: self._scores[BEST_SCORE]} if evaluate else None,
      )
    self._recorder.pause(time.perf_counter() - started)

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
