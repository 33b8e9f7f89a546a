"""Creates, checks and opens the folder of a run, on a disk or on a bucket."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bigscale import temporary
from bigscale.place import Place, is_remote, open_place
from bigscale.place.paths import path_of
from bigscale.spec import (
  Change,
  RunSpec,
  SpecError,
  changes,
  from_json,
  to_json,
)
from bigscale.train import sealed, settings, steps
from bigscale.train.claim import Claim
from bigscale.train.lease import Lease

# The keys of spec.json, without its digest.
_UNSEALED = {"spec", "versions", "command", "environment"}

# Part of the names of Orbax's incomplete step folders.
HALF_SAVED = ".orbax-checkpoint-tmp"

_RESTART = (
  "start the run again with the same --config (`bigscale train`), which "
  "rewrites the file and resumes"
)

_SPEC = "spec.json"

_log = logging.getLogger(__name__)

_PACKAGES = ("bigscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The files of a run, which are all in one folder.

  Attributes:
    path: path or address of the folder.
    claim: claim of the folder by this run; None if it is only read.
  """

  path: epath.Path
  claim: Claim | Lease | None = None

  @functools.cached_property
  def place(self) -> Place:
    """The folder, for reading and writing."""
    return open_place(self.path)

  @property
  def spec(self) -> epath.Path:
    """File with the resolved spec, versions, command and environment."""
    return self.path / _SPEC

  @property
  def metrics(self) -> epath.Path:
    """File with one JSON object per logged step; see `place/log`."""
    return self.path / "metrics.jsonl"

  @property
  def events(self) -> epath.Path:
    """File with one JSON object per event; see `place/log`."""
    return self.path / "events.jsonl"

  def samples(self, step: int) -> epath.Path:
    """Returns the path of the grid of samples at a step."""
    return self.path / samples_name(step)

  def release(self) -> None:
    """Releases the claim, so that other processes may use the folder."""
    if self.claim:
      self.claim.release()

  def has_steps(self) -> bool:
    """Returns whether the folder, which may not exist, has a checkpoint."""
    return bool(steps.at(self.path / "checkpoints").existing())

  def has_spec(self) -> bool:
    """Returns whether the folder has a `spec.json`."""
    return self.place.entry(_SPEC) is not None


def samples_name(step: int) -> str:
  """Returns the name of the grid of samples at a step."""
  return f"samples/{step:08d}.png"


def create(
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  command: Sequence[str],
  claim: Claim | Lease | None = None,
  *,
  environment: Mapping[str, Any] | None = None,
  change: bool = False,
  begun: bool = False,
) -> RunFolder:
  """Creates the folder of a new run, or opens the folder of an existing run.

  If allowed settings differ from those of the existing run, `spec.json` is not
  rewritten until `write_spec`. `changes_in` returns the differences.

  Args:
    workdir: run folder.
    spec: spec of the run.
    command: command line to record.
    claim: lock to take on the folder; None if no other process can use it.
    environment: compiler environment to record.
    change: whether settings that affect the results of the run may differ.
    begun: whether there are checkpoints. If so, a missing `spec.json` is not
      written until `write_spec`.

  Raises:
    SpecError: if the folder belongs to another run (the message names the
      differences), is in use or is not writable.
  """
  folder = RunFolder(address(workdir), claim)
  with _writable(folder):
    if not is_remote(folder.path):
      folder.path.mkdir(parents=True, exist_ok=True)
    if claim:
      claim.take(folder.path)
      _clear(folder)
    if folder.has_spec():
      _check_same(folder, spec, change)
      begun = False
    if not begun and not changes_in(folder, spec):
      write_spec(folder, spec, command, environment)
  return folder


def _clear(folder: RunFolder) -> None:
  """Removes incomplete files and checkpoints that a killed process left.

  Orbax only cleans the checkpoint folders that this start opens, and whether it
  opens `healthy/` depends on the monitor. On a bucket, nothing is temporary.
  """
  if is_remote(folder.path):
    return
  temporary.clear(folder.path)
  temporary.clear(folder.path / "samples")
  for name in ("checkpoints", "healthy"):
    for place in (folder.path / name).glob("*/"):
      temporary.clear(place)
      if HALF_SAVED in place.name:
        shutil.rmtree(place, ignore_errors=True)


def write_spec(
  folder: RunFolder,
  spec: RunSpec,
  command: Sequence[str],
  environment: Mapping[str, Any] | None = None,
) -> None:
  """Writes the current settings of a run to `spec.json`.

  Args:
    folder: folder of the run.
    spec: settings of the run.
    command: command line that started the run.
    environment: compiler options and variables (`compiler.environment`).

  Raises:
    SpecError: if the folder is not writable.
  """
  content = {
    "spec": to_json(spec),
    "versions": versions(),
    "command": list(command),
    "environment": dict(environment or {}),
  }
  with _writable(folder):
    text = json.dumps(sealed.seal(content), indent=2)
    folder.place.write(_SPEC, as_bytes(text))


@contextlib.contextmanager
def _writable(folder: RunFolder) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise SpecError(
      f"cannot write to --workdir={folder.path} ({error.strerror or error}); "
      "choose a writable folder on a disk with free space, or a bucket that "
      "you may write to"
    ) from error


def open_existing(workdir: str | os.PathLike[str]) -> tuple[RunFolder, RunSpec]:
  """Opens an existing run for reading.

  Raises:
    SpecError: if the folder contains no run.
  """
  folder = RunFolder(address(workdir))
  if not folder.has_spec():
    if folder.has_steps():
      raise SpecError(
        f"{folder.spec} is missing, but the run's checkpoints exist. Restore "
        f"a copy of this file, or {_RESTART}"
      )
    raise SpecError(
      f"--workdir={folder.path} contains no run (no spec.json); use a folder "
      "that `bigscale train` wrote"
    )
  return folder, from_json(_recorded_spec(folder))


def with_places(
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  places: Sequence[str],
  *,
  begun: bool,
) -> tuple[RunSpec, RunSpec]:
  """Finds the current locations of a run's data.

  A run with checkpoints keeps the data sources recorded in its `spec.json`. If
  the config names other sources, they are only the locations to read from, like
  `places`. Restoring the checkpoint verifies that the data are the same.

  Args:
    workdir: run folder.
    spec: spec of the run, from its config.
    places: current locations of the data, see `DataSpec.at`.
    begun: whether the folder contains a checkpoint.

  Returns:
    The spec with the recorded sources, and the spec with the current locations.

  Raises:
    SpecError: if the locations do not match the sources.
  """
  folder = RunFolder(address(workdir))
  if begun and folder.has_spec():
    # Plain JSON, because other versions of bigscale have other settings.
    data = _recorded_spec(folder)["data"]
    parts = data.get("mixture") or (data,)
    recorded = tuple(part["source"] for part in parts)
    given = spec.data.sources
    if recorded != given and len(recorded) == len(given):
      places = places or given
      spec = dataclasses.replace(spec, data=spec.data.with_sources(recorded))
  return spec, dataclasses.replace(spec, data=spec.data.at(places))


def address(workdir: str | os.PathLike[str]) -> epath.Path:
  """Returns the path or address of a run folder.

  Raises:
    SpecError: if the address cannot be used.
  """
  steps.check_address(workdir)
  if is_remote(workdir):
    open_place(workdir)  # Checks that the bucket can be accessed.
  return path_of(workdir)


def settings_in(content: bytes) -> Mapping[str, Any]:
  """Returns the settings in a `spec.json` file, as plain JSON.

  Raises:
    ValueError: if the file does not match its digest. A flipped bit in a number
      could otherwise go unnoticed.
  """
  written = json.loads(content)
  # Files of earlier versions have only these keys and no digest.
  if not (isinstance(written, Mapping) and written.keys() <= _UNSEALED):
    written = sealed.unseal(written)
  if not isinstance(written.get("spec"), Mapping):
    raise ValueError("no settings in it")
  return written["spec"]


def _recorded_spec(folder: RunFolder) -> Mapping[str, Any]:
  """Returns the spec recorded in a folder, as plain JSON.

  Raises:
    SpecError: if `spec.json` is damaged.
  """
  try:
    return settings_in(folder.place.read(_SPEC))
  except ValueError as error:
    raise SpecError(
      f"{folder.spec} is damaged ({error}). The run's checkpoints are not "
      "affected: restore a copy of this file, or move only this file away and "
      f"{_RESTART}"
    ) from error


def changes_in(folder: RunFolder, spec: RunSpec) -> list[Change]:
  """Returns the settings in which a spec differs from a folder's.

  Returns an empty list if the folder has no `spec.json`.

  Raises:
    SpecError: if the folder's `spec.json` is damaged.
  """
  if not folder.has_spec():
    return []
  return settings.changes_of(_recorded_spec(folder), spec)


def _check_same(folder: RunFolder, spec: RunSpec, change: bool) -> None:
  refused = changes.refusal(changes_in(folder, spec), asked=change)
  if refused:
    raise SpecError(f"--workdir={folder.path} {refused}")
  old, new = _recorded_spec(folder), settings.by_meaning(to_json(spec))
  for name, value in settings.unknown_to(old, new, ""):
    if Change(name, None, value).nature.kind != "free":
      _log.warning(
        "%s was written by a version without %s; the run continues with %r",
        folder.spec,
        name,
        value,
      )


def versions() -> dict[str, str]:
  """Returns the versions of Python and of packages that affect results."""
  found = {"python": sys.version.split()[0]}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def as_bytes(text: str) -> bytes:
  """Returns text as UTF-8. File names in it may not be valid Unicode."""
  return text.encode(errors="backslashreplace")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
  """Writes a file at a path or address atomically."""
  folder, _, name = os.fspath(path).rpartition("/")
  open_place(folder or ".").write(name, as_bytes(text))
