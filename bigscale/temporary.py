"""Atomic writes of files and folders.

Content is written to a temporary path in the same folder and renamed when it is
complete. The temporary name identifies the writing process:
`.NAME.HOST.PID-NUMBER.partial`. A killed process leaves it behind, and the next
process that writes NAME removes it.
"""

import contextlib
import itertools
import os
import pathlib
import re
import shutil
import socket
import time
from collections.abc import Iterator

_NUMBERS = itertools.count()
# File names are limited to 255 bytes, so NAME is truncated.
_MAX_NAME_CHARACTERS = 60
# Age at which a file of another machine's process is considered abandoned:
# there is no way to check whether that process is running.
_ABANDONED_SECONDS = 24 * 3600.0
_PARTIAL = re.compile(
  r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)-\d+\.partial"
)
# Names written by earlier versions, without a host or without any owner.
_EARLIER = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(tmp|partial)")
_NAMELESS = re.compile(r"tmp[a-z0-9_]{8}\.partial")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Replaces a file atomically.

  Args:
    path: path of the file.

  Yields:
    The temporary path to write to. It is renamed to `path` if the block
    succeeds and removed otherwise.

  Raises:
    OSError: if the file cannot be written.
  """
  path = pathlib.Path(path)
  partial = beside(path)
  try:
    yield partial
    with partial.open("rb") as file:
      # Otherwise a crash after the rename could leave an empty file.
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def beside(path: pathlib.Path) -> pathlib.Path:
  """Returns a temporary path for `path` after removing abandoned ones."""
  name = path.name[:_MAX_NAME_CHARACTERS]
  clear(path.parent, name)
  number = f"{os.getpid()}-{next(_NUMBERS)}"
  return path.with_name(f".{name}.{_host()}.{number}.partial")


def clear(folder: pathlib.Path, name: str | None = None) -> None:
  """Removes temporary files that dead processes left in a folder.

  Files of running processes stay. Files of another machine's processes stay
  for a day, because their state is unknown.

  Args:
    folder: folder to clean; it may not exist.
    name: final name whose temporary files are removed; None means all.
  """
  try:
    entries = list(os.scandir(folder))
  except OSError:
    return
  for entry in entries:
    # Another process may remove it at the same time.
    with contextlib.suppress(OSError):
      if _is_abandoned(entry, name):
        if entry.is_dir(follow_symlinks=False):
          shutil.rmtree(entry.path, ignore_errors=True)
        else:
          os.unlink(entry.path)


def is_partial(name: str) -> bool:
  """Returns whether a file name is that of a temporary file."""
  patterns = (_PARTIAL, _EARLIER, _NAMELESS)
  return any(pattern.fullmatch(name) for pattern in patterns)


def _is_abandoned(entry: os.DirEntry[str], name: str | None) -> bool:
  found = _PARTIAL.fullmatch(entry.name) or _EARLIER.fullmatch(entry.name)
  if found:
    parts = found.groupdict()
    if name not in (None, parts["name"]):
      return False
    if parts.get("host", _host()) == _host() and not _is_running(parts["pid"]):
      return True
  elif not _NAMELESS.fullmatch(entry.name):
    return False
  age = time.time() - entry.stat(follow_symlinks=False).st_mtime
  return age > _ABANDONED_SECONDS


def _is_running(pid: str) -> bool:
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return False
  except (PermissionError, OverflowError):
    # Another user's process, or a number too large for a PID.
    return True
  return True


def _host() -> str:
  return re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)
