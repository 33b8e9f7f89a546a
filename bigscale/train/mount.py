"""Checks that the file system of a run folder can rename folders.

A checkpoint is written to a temporary folder, which is renamed when it is
complete. A bucket with a flat namespace has no folders: gcsfuse refuses the
rename or, with `rename-dir-limit`, copies the files one by one. If the process
is killed meanwhile, half a checkpoint is left under the final name.
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
  "use the gs:// address of the bucket, or a folder on a shared disk "
  "(Filestore, NFS)"
)
_log = logging.getLogger(__name__)


def check(workdir: str | os.PathLike[str]) -> None:
  """Creates the run folder and raises if it does not support renaming folders.

  Logs a warning if the folder is on a bucket, because there is no way to tell
  whether its renames are atomic. A folder that is not writable passes; the
  first write to it fails.

  Raises:
    SpecError: if the rename fails or is incomplete.
  """
  if "://" in str(workdir):
    return
  folder = pathlib.Path(workdir).expanduser()
  try:
    str(folder.absolute()).encode()
  except UnicodeEncodeError as error:
    raise SpecError(
      f"--workdir={folder} is not valid Unicode, so checkpoints cannot be "
      "written there; choose another folder or rename this one"
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
      f"--workdir={folder} cannot be used for checkpoints: {why}; {_REMEDY}"
    )
  kind = kind_of(folder)
  if kind.startswith("fuse") and "gcs" in kind:
    _log.warning(
      "--workdir=%s is on a bucket (%s). Unless the bucket has a hierarchical "
      "namespace, a run killed during a save leaves an incomplete checkpoint, "
      "and a resume uses the one before it. To avoid this, %s",
      folder,
      kind,
      _REMEDY,
    )


def _try(probe: pathlib.Path) -> str:
  """Renames a folder that contains a file; returns the error or ""."""
  before, after = probe / "before", probe / "after"
  try:
    before.mkdir()
    (before / "file").write_bytes(b"content")
  except OSError:  # for example a full disk, which the first write reports
    return ""
  try:
    os.rename(before, after)
  except OSError as error:
    return f"it cannot rename a folder ({error.strerror or error})"
  try:
    content = (after / "file").read_bytes()
  except OSError:
    content = b""
  if content != b"content" or before.exists():
    return "a renamed folder is incomplete"
  return ""


def kind_of(folder: pathlib.Path, mounts: str = _MOUNTS) -> str:
  """Returns the file system type of a folder, or "" if it is unknown.

  Args:
    folder: existing folder.
    mounts: path of a mount table in the format of /proc/self/mounts.
  """
  place, found = os.path.realpath(folder), ("", "")
  with contextlib.suppress(OSError), open(mounts, errors="replace") as file:
    for line in file:
      _, point, kind, *_ = [*line.split(" "), "", ""]
      # Spaces are written as octal escapes.
      point = point.encode("latin-1", "replace").decode("unicode_escape")
      inside = f"{place}/".startswith(f"{point.rstrip('/')}/")
      if inside and len(point) >= len(found[0]):
        found = point, kind
  return found[1]
