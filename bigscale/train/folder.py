"""Creates, checks and opens the folder of a run."""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigscale import temporary
from bigscale.spec import (
  Change,
  RunSpec,
  SpecError,
  changes,
  from_json,
  to_json,
)
from bigscale.train import sealed
from bigscale.train.claim import Claim

# The keys of spec.json, without its digest.
_UNSEALED = {"spec", "versions", "command", "environment"}

# Part of the names of Orbax's incomplete step folders.
HALF_SAVED = ".orbax-checkpoint-tmp"

_RESTART = (
  "start the run again with the same --config (`bigscale train`), which "
  "rewrites the file and resumes"
)

_log = logging.getLogger(__name__)

_PACKAGES = ("bigscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The paths of a run's files; all files of a run are in one folder."""

  path: pathlib.Path

  @property
  def spec(self) -> pathlib.Path:
    """File with the resolved spec, versions, command and environment."""
    return self.path / "spec.json"

  @property
  def metrics(self) -> pathlib.Path:
    """File with one JSON object per logged step."""
    return self.path / "metrics.jsonl"

  @property
  def events(self) -> pathlib.Path:
    """File with one JSON object per event."""
    return self.path / "events.jsonl"

  def samples(self, step: int) -> pathlib.Path:
    """Returns the path of the grid of samples at a step."""
    return self.path / "samples" / f"{step:08d}.png"


def create(
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  command: Sequence[str],
  claim: Claim | None = None,
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
  folder = RunFolder(_local(workdir))
  with _writable(folder):
    folder.path.mkdir(parents=True, exist_ok=True)
    if claim:
      claim.take(folder.path)
      _clear(folder)
    if folder.spec.exists():
      _check_same(folder, spec, change)
      begun = False
    if not begun and not changes_in(folder, spec):
      write_spec(folder, spec, command, environment)
  return folder


def _clear(folder: RunFolder) -> None:
  """Removes incomplete files and checkpoints that a killed process left.

  Orbax only cleans the checkpoint folders that this start opens, and whether it
  opens `healthy/` depends on the monitor.
  """
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
    write_whole(folder.spec, json.dumps(sealed.seal(content), indent=2))


@contextlib.contextmanager
def _writable(folder: RunFolder) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise SpecError(
      f"cannot write to --workdir={folder.path} ({error.strerror}); choose "
      "a writable folder on a disk with free space"
    ) from error


def open_existing(workdir: str | os.PathLike[str]) -> tuple[RunFolder, RunSpec]:
  """Opens an existing run for reading.

  Raises:
    SpecError: if the folder contains no run.
  """
  folder = RunFolder(_local(workdir))
  if not folder.spec.is_file():
    if any((folder.path / "checkpoints").glob("[0-9]*")):
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
  folder = RunFolder(_local(workdir))
  if begun and folder.spec.is_file():
    # Plain JSON, because other versions of bigscale have other settings.
    data = _recorded_spec(folder)["data"]
    parts = data.get("mixture") or (data,)
    recorded = tuple(part["source"] for part in parts)
    given = spec.data.sources
    if recorded != given and len(recorded) == len(given):
      places = places or given
      spec = dataclasses.replace(spec, data=spec.data.with_sources(recorded))
  return spec, dataclasses.replace(spec, data=spec.data.at(places))


def _local(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Rows are appended to files, which object stores do not support.
  if "://" in str(workdir):
    raise SpecError(
      f"--workdir={workdir} is an address, not a folder; mount a disk "
      "(Filestore, NFS) on every machine and use a folder there"
    )
  return pathlib.Path(workdir).expanduser()


def settings_in(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns the settings in a `spec.json` file, as plain JSON.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if the file does not match its digest. A flipped bit in a number
      could otherwise go unnoticed.
  """
  written = json.loads(path.read_bytes())
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
    return settings_in(folder.spec)
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
  if not folder.spec.exists():
    return []
  return changes_of(_recorded_spec(folder), spec)


def changes_of(old: Mapping[str, Any], spec: RunSpec) -> list[Change]:
  """Returns the settings in which a spec differs from a recorded one.

  Settings that did not exist in the recording version do not count.
  """
  new = by_meaning(to_json(spec))
  unknown = [name for name, _ in _unknown_to(old, new, "")]
  return [
    Change(*found)
    for found in differences(by_meaning(old), new, "")
    if not any(f"{found[0]}.".startswith(f"{name}.") for name in unknown)
  ]


def _check_same(folder: RunFolder, spec: RunSpec, change: bool) -> None:
  refused = changes.refusal(changes_in(folder, spec), asked=change)
  if refused:
    raise SpecError(f"--workdir={folder.path} {refused}")
  old, new = _recorded_spec(folder), by_meaning(to_json(spec))
  for name, value in _unknown_to(old, new, ""):
    if Change(name, None, value).nature.kind != "free":
      _log.warning(
        "%s was written by a version without %s; the run continues with %r",
        folder.spec,
        name,
        value,
      )


def by_meaning(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a recorded spec with defaults for missing settings.

  Settings can be missing if an earlier version wrote the spec. A spec that this
  version cannot read is returned unchanged.
  """
  with contextlib.suppress(SpecError):
    recorded = to_json(from_json(recorded))
  return json.loads(json.dumps(recorded))


def differences(
  old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """Yields dotted name, old value and new value of each differing leaf."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted(old.keys() | new.keys()):
      name = f"{path}.{key}" if path else key
      yield from differences(old.get(key), new.get(key), name)
  elif _are_groups(old) and _are_groups(new) and len(old) == len(new):
    for number, pair in enumerate(zip(old, new, strict=True)):
      yield from differences(*pair, f"{path}[{number}]")
  elif old != new:
    yield path, old, new


def _are_groups(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(each, Mapping) for each in value
  )


def _unknown_to(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any]]:
  """Yields the settings, and their values, that an older spec lacks."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key, value in new.items():
      name = f"{path}.{key}" if path else key
      if key in old:
        yield from _unknown_to(old[key], value, name)
      else:
        yield name, value


def versions() -> dict[str, str]:
  """Returns the versions of Python and of packages that affect results."""
  found = {"python": sys.version.split()[0]}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes a file atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # File names in the text may not be valid Unicode.
  with temporary.replacing(path) as partial:
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
