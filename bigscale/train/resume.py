"""Resumes a run from its folder, or starts a new run."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bigscale.data.stream import Stream
from bigscale.parallel import compiler, multihost
from bigscale.place import is_remote
from bigscale.spec import (
  Change,
  ImageCount,
  RunSpec,
  SpecError,
  require,
  to_json,
)
from bigscale.spec.changes import refusal
from bigscale.train import folder as folders
from bigscale.train import mount, settings
from bigscale.train.bucket_checkpoint import BucketCheckpoints
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints, Restored
from bigscale.train.claim import Claim
from bigscale.train.init_from import Start, apply_start
from bigscale.train.lease import Lease
from bigscale.train.meter import Meter
from bigscale.train.recorder import Recorder
from bigscale.train.rollback import Guard


def changes_since(
  folder: folders.RunFolder, found: Restored, spec: RunSpec, *, change: bool
) -> list[Change]:
  """Compares the spec with the checkpoint's if `spec.json` is missing.

  Returns:
    The changed settings; [] if `spec.json` exists, because `open_folder` has
    compared it already.

  Raises:
    SpecError: if the run cannot continue with these settings.
  """

  def compare() -> list[list[Any]]:
    if folder.has_spec():
      return []
    noted = found.meta.get("spec")
    if noted is None:
      logging.warning(
        "%s is missing, and checkpoint %d is from a version that did not store "
        "the settings; the run continues with the settings of --config",
        folder.spec,
        found.step,
      )
      return []
    logging.warning("%s is missing; rewriting it", folder.spec)
    changes = settings.changes_of(noted, spec)
    if refused := refusal(changes, asked=change):
      raise SpecError(f"--workdir={folder.path} {refused}")
    return [[each.setting, each.old, each.new] for each in changes]

  return [Change(*each) for each in multihost.decide("settings", compare)]


def count_at(spec: RunSpec, found: Restored) -> ImageCount:
  """Returns the number of images per step of a run resumed from a checkpoint.

  Checkpoints of earlier versions store only `kimg`, because all steps had the
  same number of images.
  """
  count = spec.count
  if noted := found.meta.get("batches"):
    count = ImageCount.of(noted)
  elif found.step and found.meta.get("kimg"):
    images, odd = divmod(round(found.meta["kimg"] * 1000), found.step)
    count = count if odd else ImageCount(((0, images),))
  return count.going_on(found.step, spec.images_per_step)


def open_checkpoints(folder: folders.RunFolder, spec: RunSpec) -> Checkpoints:
  """Opens the run's checkpoints, ranked by the spec's best score."""
  kept = dataclasses.replace(spec.checkpoint, best=spec.best_score)
  kind = BucketCheckpoints if is_remote(folder.path) else Checkpoints
  return kind(
    folder.path, kept, scores=spec.evaluate.scores, claim=folder.claim
  )


def write_spec(
  folder: folders.RunFolder,
  built: Built,
  spec: RunSpec,
  command: Sequence[str],
  changes: Sequence[Change],
) -> None:
  """Writes `spec.json` on process 0 if settings changed or it is missing."""
  if multihost.is_main() and (changes or not folder.has_spec()):
    environment = compiler.environment(built.compiler_options)
    folders.write_spec(folder, spec, command, environment)


def take_changes(
  recorder: Recorder,
  guard: Guard,
  step: int,
  changes: Sequence[Change],
  accepted: bool,
) -> None:
  """Writes events for changed settings, before `spec.json` is rewritten.

  If the run is killed in between, the events are written twice but never lost.
  The monitor compares nothing across the changes.

  Args:
    recorder: recorder of the run.
    guard: monitor of the run.
    step: step that the run resumes from.
    changes: changed settings.
    accepted: whether changed records of the data were accepted.
  """
  for change in changes:
    why = change.nature.why
    if multihost.is_main():
      logging.warning("from step %d on: %s", step, change)
    recorder.event(
      "setting_changed",
      step,
      setting=change.setting,
      old=change.old,
      new=change.new,
      **({"consequence": why} if why else {}),
    )
  if accepted or any(change.nature.kind == "asked" for change in changes):
    guard.expect_change(step)


def open_recorder(
  folder: folders.RunFolder,
  spec: RunSpec,
  mesh: Mesh,
  found: Restored,
) -> Recorder:
  """Returns the recorder of a run, with the totals of earlier starts."""
  count = count_at(spec, found)
  meter = Meter(spec, mesh.devices.flat, found.meta, count)
  return Recorder(folder, spec, found.step, found.attempt, meter, count)


def report(
  recorder: Recorder,
  stream: Stream,
  found: Restored,
  start: Start | None,
  moved: bool,
) -> bool:
  """Writes events for changed data, initial weights and damaged checkpoints.

  Args:
    recorder: recorder of the run.
    stream: restored data stream.
    found: checkpoint that the run resumes from.
    start: initial weights from another run, or None.
    moved: whether the data are at other locations than the settings say.

  Returns:
    Whether changed records were accepted.
  """
  if moved:
    recorder.event("data_moved", found.step, places=stream.places)
  before = found.data.get("source")
  accepted = before in stream.get_state().get("accepted", ())
  if accepted:
    recorder.event("data_accepted", found.step, old=before, new=stream.identity)
  if start:
    recorder.event("init_from", 0, **start.note())
  for step, why in found.damaged:
    recorder.event("damaged_checkpoint", found.step, of_step=step, why=why)
  return accepted


def new_claim(workdir: str | os.PathLike[str], spec: RunSpec) -> Claim | Lease:
  """Returns the kind of claim that a folder needs, which is not taken yet."""
  if is_remote(workdir):
    return Lease(spec.operations.lease_seconds)
  return Claim()


def open_folder(
  built: Built,
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  command: Sequence[str],
  *,
  change: bool,
  begun: bool,
) -> tuple[folders.RunFolder, list[Change]]:
  """Creates and locks the folder on process 0.

  Returns:
    The folder and the changed settings, on all processes.
  """
  claim = new_claim(workdir, spec)
  folder = folders.RunFolder(folders.address(workdir), claim)

  def make() -> list[list[Any]]:
    made = folders.create(
      workdir,
      spec,
      command,
      claim,
      environment=compiler.environment(built.compiler_options),
      change=change,
      begun=begun,
    )
    found = folders.changes_in(made, spec)
    return [[each.setting, each.old, each.new] for each in found]

  with contextlib.ExitStack() as undo:
    undo.callback(folder.release)
    multihost.decide("mount", lambda: mount.check(workdir))
    changes = [Change(*each) for each in multihost.decide("folder", make)]
    require(
      claim.is_seen(folder.path),
      f"--workdir={workdir} is not the same folder on process "
      f"{jax.process_index()} as on process 0; use a folder on a file system "
      "or bucket that all processes share",
    )
    undo.pop_all()
  return folder, changes


def restore(
  built: Built,
  stream: Stream,
  checkpoints: Checkpoints,
  start: Start | None,
  accept_data: bool = False,
) -> Restored:
  """Returns the newest undamaged checkpoint, or the start of a new run."""
  latest = multihost.decide("latest step", checkpoints.latest_step)
  if latest is None:
    state = built.init(np.int32(built.spec.seed))
    if start:
      state = apply_start(state, start)
      # Saved now, so that a resumed run does not need the other run.
      meta = {"kimg": 0.0, "spec": to_json(built.spec)}
      checkpoints.save(0, state, stream.get_state(), meta)
    return Restored(0, state, stream.get_state(), {})
  restored = checkpoints.restore(built.abstract_state)
  checkpoints.set_damaged_aside(restored.damaged)
  stream.set_state(restored.data, accept=accept_data)
  logging.info("resuming after step %d", restored.step)
  return restored
