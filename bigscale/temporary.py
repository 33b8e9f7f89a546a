"""Files and folders that appear whole or not at all.

Until it is whole, what is written has a name beside its own that tells whose it
is: `.NAME.HOST.PID-NUMBER.partial`. A process that is killed leaves it behind,
and the next one that writes NAME there removes it.
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
# Names may have 255 bytes, of which most may be NAME's.
_MOST_CHARACTERS = 60
# Whether a process of another machine lives cannot be asked.
_SECONDS = 24 * 3600.0
_PARTIAL = re.compile(
  r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)-\d+\.partial"
)
# Earlier versions did not name the machine, or nothing at all.
_EARLIER = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(tmp|partial)")
_NAMELESS = re.compile(r"tmp[a-z0-9_]{8}\.partial")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Writes a file whole or not at all, in the place of an older one.

  Args:
    path: of the file.

  Yields:
    Where to write it. It gets its own name when the block ends well, and is
    removed otherwise.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  partial = beside(path)
  try:
    yield partial
    with partial.open("rb") as file:
      # A machine that fails later must not leave the name with no content.
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def beside(path: pathlib.Path) -> pathlib.Path:
  """Returns the name of what will be `path`; removes what killed ones left."""
  name = path.name[:_MOST_CHARACTERS]
  clear(path.parent, name)
  number = f"{os.getpid()}-{next(_NUMBERS)}"
  return path.with_name(f".{name}.{_host()}.{number}.partial")


def clear(folder: pathlib.Path, name: str | None = None) -> None:
  """Removes what processes that are gone have left in a folder.

  What a living one may be writing stays. Of another machine's processes that
  is not known for a day.

  Args:
    folder: which need not be there.
    name: of what was to be made; None takes all.
  """
  try:
    entries = list(os.scandir(folder))
  except OSError:
    return
  for entry in entries:
    # Others may remove it at the same time.
    with contextlib.suppress(OSError):
      if _is_left(entry, name):
        if entry.is_dir(follow_symlinks=False):
          shutil.rmtree(entry.path, ignore_errors=True)
        else:
          os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str], name: str | None) -> bool:
  found = _PARTIAL.fullmatch(entry.name) or _EARLIER.fullmatch(entry.name)
  if found:
    parts = found.groupdict()
    if name not in (None, parts["name"]):
      return False
    if parts.get("host", _host()) == _host() and not _lives(parts["pid"]):
      return True
  elif not _NAMELESS.fullmatch(entry.name):
    return False
  age = time.time() - entry.stat(follow_symlinks=False).st_mtime
  return age > _SECONDS


def _lives(process: str) -> bool:
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (PermissionError, OverflowError):
    # Another user's; a number that is no process's.
    return True
  return True


def _host() -> str:
  return re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)
