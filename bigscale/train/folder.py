"""A run's folder: whose it is, and whether it can be written."""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigscale.spec import RunSpec, SpecError, from_json, to_json
from bigscale.train.claim import Claim

# What may change between two starts of one run: where it runs, how long, and
# what it writes down. Everything else would change its numbers.
_MAY_CHANGE = ("mesh", "log", "checkpoint", "operations", "total_kimg")

_log = logging.getLogger(__name__)

# Of a setting that a spec.json does not have.
_UNKNOWN = object()

_PACKAGES = ("bigscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """Paths of a run (design: one folder holds everything of it)."""

  path: pathlib.Path

  @property
  def spec(self) -> pathlib.Path:
    """The resolved spec, versions and command."""
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
) -> RunFolder:
  """Makes the folder of a new run, or opens that of the same run.

  Args:
    workdir: the folder.
    spec: of the run.
    command: recorded.
    claim: taken on the folder; None where nobody else can know of it.

  Raises:
    SpecError: it holds another run (the difference is named), is in use, or
      cannot be written.
  """
  folder = RunFolder(_local(workdir))
  try:
    folder.path.mkdir(parents=True, exist_ok=True)
    if claim:
      claim.take(folder.path)
    if folder.spec.exists():
      _check_same(folder, spec)
    write_whole(
      folder.spec,
      json.dumps(
        {
          "spec": to_json(spec),
          "versions": versions(),
          "command": list(command),
        },
        indent=2,
      ),
    )
  except OSError as error:
    raise SpecError(
      f"--workdir={folder.path} cannot be written ({error.strerror}); choose "
      "a folder that you may write to, on a disk with room"
    ) from error
  return folder


def open_existing(workdir: str | os.PathLike[str]) -> tuple[RunFolder, RunSpec]:
  """Opens a finished or broken-off run for reading.

  Raises:
    SpecError: there is no run.
  """
  folder = RunFolder(_local(workdir))
  if not folder.spec.is_file():
    raise SpecError(
      f"--workdir={folder.path} holds no run (no spec.json); name the folder "
      "that `bigscale train` wrote"
    )
  return folder, _read_spec(folder)


def _local(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Rows are appended to files, which buckets do not know.
  if "://" in str(workdir):
    raise SpecError(
      f"--workdir={workdir} is an address, not a folder; mount it (Filestore, "
      "NFS, a bucket by gcsfuse) on every machine and name the folder there"
    )
  return pathlib.Path(workdir)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
    raise SpecError(
      f"{path} is damaged ({error}); move the folder aside and start anew"
    ) from error


def _read_spec(folder: RunFolder) -> RunSpec:
  with _reading(folder.spec):
    return from_json(json.loads(folder.spec.read_text())["spec"])


def _check_same(folder: RunFolder, spec: RunSpec) -> None:
  with _reading(folder.spec):
    old = json.loads(folder.spec.read_text())["spec"]
  new = json.loads(json.dumps(to_json(spec)))
  differences = [
    one
    for one in _differences(old, new, "")
    if one[0].split(".")[0] not in _MAY_CHANGE
  ]
  changed = [
    f"  {key}: {before!r} there, {after!r} here"
    for key, before, after in differences
    if before is not _UNKNOWN
  ]
  if changed:
    raise SpecError(
      f"--workdir={folder.path} holds another run:\n"
      + "\n".join(changed)
      + "\nChoose another folder, or restore these values to resume that run."
    )
  for key, _, after in differences:
    _log.warning(
      "%s was written by a version without %s; the run goes on with %r",
      folder.spec,
      key,
      after,
    )


def _differences(
  old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """Settings in which two specs differ: (name, old value, new value).

  The old value of one that the old spec does not have is `_UNKNOWN`.
  """
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted(old.keys() | new.keys()):
      name = f"{path}.{key}" if path else key
      before = old.get(key, _UNKNOWN)
      yield from _differences(before, new.get(key), name)
  elif old != new:
    yield path, old, new


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
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  temporary.write_text(text)
  temporary.replace(path)
