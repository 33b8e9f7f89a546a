"""Checks that a disk can rename a folder with its content.

A checkpoint is written to a folder of another name, which is renamed when it is
whole. A bucket with a flat namespace has no folders: gcsfuse refuses such a
rename, or copies the files one by one where it is told to (`rename-dir-limit`),
and a kill on the way leaves half a checkpoint under the name of a whole one.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import tempfile

from bigscale.spec import SpecError

_MOUNTS = "/proc/self/mounts"
_REMEDY = (
  "name a folder on a disk that all machines share (Filestore, NFS), or on a "
  "bucket with a hierarchical namespace"
)
_log = logging.getLogger(__name__)


def check(workdir: str | os.PathLike[str]) -> None:
  """Refuses a workdir on a disk that cannot rename folders; makes the workdir.

  Warns where the disk is a bucket, of which nothing says whether its renames
  are whole. What cannot be written at all is left to who writes there.

  Raises:
    SpecError: the rename fails, or leaves something behind.
  """
  if "://" in str(workdir):
    return
  folder = pathlib.Path(workdir).expanduser()
  try:
    str(folder.absolute()).encode()
  except UnicodeEncodeError as error:
    raise SpecError(
      f"--workdir={folder} has a name that is no Unicode, and checkpoints can "
      "only be written to others; choose another folder, or rename this one"
    ) from error
  made = not folder.exists()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = pathlib.Path(tempfile.mkdtemp(prefix=".probe-", dir=folder))
  except OSError:
    return
  try:
    why = _try(probe)
  finally:
    for left in (probe / "before", probe / "after", probe):
      shutil.rmtree(left, ignore_errors=True)
  if why:
    if made:
      with contextlib.suppress(OSError):
        folder.rmdir()
    raise SpecError(
      f"--workdir={folder} cannot hold a run: {why}, as every checkpoint needs "
      f"it; {_REMEDY}"
    )
  kind = kind_of(folder)
  if kind.startswith("fuse") and "gcs" in kind:
    _log.warning(
      "--workdir=%s is a bucket (%s): unless its namespace is hierarchical, a "
      "kill during a save leaves a part of a checkpoint, which a resume passes "
      "over for the one before; else %s",
      folder,
      kind,
      _REMEDY,
    )


def _try(probe: pathlib.Path) -> str:
  """Renames a folder with a file in it; returns the error, or ""."""
  before, after = probe / "before", probe / "after"
  try:
    before.mkdir()
    (before / "file").write_bytes(b"content")
  except OSError:  # a full disk: who writes there says so
    return ""
  try:
    os.rename(before, after)
  except OSError as error:
    return f"a folder in it cannot be renamed ({error.strerror or error})"
  try:
    content = (after / "file").read_bytes()
  except OSError:
    content = b""
  if content != b"content" or before.exists():
    return "a folder in it that was renamed is not whole under its new name"
  return ""


def kind_of(folder: pathlib.Path, mounts: str = _MOUNTS) -> str:
  """Returns the type of the file system of a folder; "" where nothing says it.

  Args:
    folder: that exists.
    mounts: a table as Linux gives it.
  """
  place, found = os.path.realpath(folder), ("", "")
  with contextlib.suppress(OSError), open(mounts, errors="replace") as file:
    for line in file:
      _, point, kind, *_ = [*line.split(" "), "", ""]
      # Spaces are written as octal numbers.
      point = point.encode("latin-1", "replace").decode("unicode_escape")
      inside = f"{place}/".startswith(f"{point.rstrip('/')}/")
      if inside and len(point) >= len(found[0]):
        found = point, kind
  return found[1]
