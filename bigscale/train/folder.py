"""A run's folder: whose it is, and whether it can be written."""

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

# What spec.json holds, besides a digest of it.
_UNSEALED = {"spec", "versions", "command", "environment"}

# In the names of Orbax's folders of steps until they are whole.
HALF_SAVED = ".orbax-checkpoint-tmp"

_GO_ON = (
  "start the run again with the same --config (`bigscale train`), which "
  "writes it anew and goes on"
)

_log = logging.getLogger(__name__)

_PACKAGES = ("bigscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """Paths of a run (design: one folder holds everything of it)."""

  path: pathlib.Path

  @property
  def spec(self) -> pathlib.Path:
    """The resolved spec, versions, command and environment."""
    return self.path / "spec.json"

  @property
  def metrics(self) -> pathlib.Path:
    """One JSON object a logged step."""
    return self.path / "metrics.jsonl"

  @property
  def events(self) -> pathlib.Path:
    """One JSON object for everything that is not a step."""
    return self.path / "events.jsonl"

  def samples(self, step: int) -> pathlib.Path:
    """The grid of fixed latents at a step."""
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
  """Makes the folder of a new run, or opens that of the same run.

  Where settings differ from those of the run that is there, `spec.json` stays
  as it is until `adopt`: `changes_in` says which they are.

  Args:
    workdir: the folder.
    spec: of the run.
    command: recorded.
    claim: taken on the folder; None where nobody else can know of it.
    environment: recorded.
    change: whether settings may change that change the run's numbers.
    begun: whether there are checkpoints. Then a `spec.json` that is missing
      stays so until `adopt`.

  Raises:
    SpecError: it holds another run (the difference is named), is in use, or
      cannot be written.
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
      adopt(folder, spec, command, environment)
  return folder


def _clear(folder: RunFolder) -> None:
  """Removes what a killed process of the run left half written.

  Orbax clears the folders of checkpoints that this start opens; of `healthy/`
  that depends on the monitor.
  """
  temporary.clear(folder.path)
  temporary.clear(folder.path / "samples")
  for name in ("checkpoints", "healthy"):
    for place in (folder.path / name).glob("*/"):
      temporary.clear(place)
      if HALF_SAVED in place.name:
        shutil.rmtree(place, ignore_errors=True)


def adopt(
  folder: RunFolder,
  spec: RunSpec,
  command: Sequence[str],
  environment: Mapping[str, Any] | None = None,
) -> None:
  """Writes the settings that a run has from now on.

  Args:
    folder: of the run.
    spec: its settings.
    command: that started it.
    environment: what XLA was told (`compiler.environment`).

  Raises:
    SpecError: the folder cannot be written.
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
      f"--workdir={folder.path} cannot be written ({error.strerror}); choose "
      "a folder that you may write to, on a disk with room"
    ) from error


def open_existing(workdir: str | os.PathLike[str]) -> tuple[RunFolder, RunSpec]:
  """Opens a finished or broken-off run for reading.

  Raises:
    SpecError: there is no run.
  """
  folder = RunFolder(_local(workdir))
  if not folder.spec.is_file():
    if any((folder.path / "checkpoints").glob("[0-9]*")):
      raise SpecError(
        f"{folder.spec} is missing; the run's checkpoints are there: put back "
        f"a copy of this file, or {_GO_ON}"
      )
    raise SpecError(
      f"--workdir={folder.path} holds no run (no spec.json); name the folder "
      "that `bigscale train` wrote"
    )
  return folder, from_json(_spec_there(folder))


def with_places(
  workdir: str | os.PathLike[str],
  spec: RunSpec,
  places: Sequence[str],
  *,
  begun: bool,
) -> tuple[RunSpec, RunSpec]:
  """Finds where a run's data are now.

  A run that has begun keeps the places its `spec.json` names: a config with
  other ones says where to read, as `places` do. Whether the data there are the
  same shows when the checkpoint is restored.

  Args:
    workdir: the folder.
    spec: of the run, from its config.
    places: see `DataSpec.at`.
    begun: whether the folder holds a checkpoint.

  Returns:
    The spec as the run began, and with the places to read from.

  Raises:
    SpecError: the places do not fit the sources.
  """
  folder = RunFolder(_local(workdir))
  if begun and folder.spec.is_file():
    # Not as a spec: other versions know other settings.
    data = _spec_there(folder)["data"]
    parts = data.get("mixture") or (data,)
    there = tuple(part["source"] for part in parts)
    here = spec.data.sources
    if there != here and len(there) == len(here):
      places = places or here
      spec = dataclasses.replace(spec, data=spec.data.with_sources(there))
  return spec, dataclasses.replace(spec, data=spec.data.at(places))


def _local(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Rows are appended to files, which buckets do not know.
  if "://" in str(workdir):
    raise SpecError(
      f"--workdir={workdir} is an address, not a folder; mount a disk "
      "(Filestore, NFS) on every machine and name a folder there"
    )
  return pathlib.Path(workdir).expanduser()


def settings_in(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns the settings that a `spec.json` holds, as plain JSON.

  Raises:
    OSError: it cannot be read.
    ValueError: it is not what was written. A flipped bit of a number would
      make it another run's.
  """
  written = json.loads(path.read_bytes())
  # Those of earlier versions have no digest, and these keys alone.
  if not (isinstance(written, Mapping) and written.keys() <= _UNSEALED):
    written = sealed.unseal(written)
  if not isinstance(written.get("spec"), Mapping):
    raise ValueError("it holds no settings")
  return written["spec"]


def _spec_there(folder: RunFolder) -> Mapping[str, Any]:
  """The spec in a folder, as plain JSON.

  Raises:
    SpecError: it is damaged.
  """
  try:
    return settings_in(folder.spec)
  except ValueError as error:
    raise SpecError(
      f"{folder.spec} is damaged ({error}); what the run has saved beside it "
      "is another matter: put back a copy of this file, or move this file "
      f"alone aside and {_GO_ON}"
    ) from error


def changes_in(folder: RunFolder, spec: RunSpec) -> list[Change]:
  """Returns the settings in which a spec differs from a folder's.

  None where the folder has no `spec.json`.

  Raises:
    SpecError: the folder's `spec.json` is damaged.
  """
  if not folder.spec.exists():
    return []
  return changes_of(_spec_there(folder), spec)


def changes_of(old: Mapping[str, Any], spec: RunSpec) -> list[Change]:
  """Returns the settings in which a spec differs from a recorded one.

  Settings that the version which recorded it did not know are no change.
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
  old, new = _spec_there(folder), by_meaning(to_json(spec))
  for name, value in _unknown_to(old, new, ""):
    if Change(name, None, value).nature.kind != "free":
      _log.warning(
        "%s was written by a version without %s; the run goes on with %r",
        folder.spec,
        name,
        value,
      )


def by_meaning(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a recorded spec with defaults for settings it does not have.

  An earlier version may have written it. One that this version cannot read is
  returned as it is.
  """
  with contextlib.suppress(SpecError):
    recorded = to_json(from_json(recorded))
  return json.loads(json.dumps(recorded))


def differences(
  old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """The leaves in which two trees differ: dotted name, old and new value."""
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
  """The settings, and their values, that an older spec does not have."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key, value in new.items():
      name = f"{path}.{key}" if path else key
      if key in old:
        yield from _unknown_to(old[key], value, name)
      else:
        yield name, value


def versions() -> dict[str, str]:
  """Of Python and of the packages that numbers depend on."""
  found = {"python": sys.version.split()[0]}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Names of files need not be Unicode.
  with temporary.replacing(path) as partial:
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
