"""One run at a time in a folder.

Two trainings that write one folder lose each other's checkpoints without a
word. The lock is the kernel's (flock): it ends with the process, however that
ends, so that no restart finds one left behind.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import re
import socket
import time
from typing import IO

from bigscale.spec import SpecError

FILE = ".lock"
# NFS gives up the locks of a machine that is gone after its lease, 90 s as a
# rule: a run that starts again elsewhere must not end over that.
_LEASE_SECONDS = 120.0
# A process that has lost its supervisor saves the run, which may be large.
_ORPHAN_SECONDS = 900.0
_LOOK_SECONDS = 1.0
_HOLDER = "process {} with parent {} on {}\n"
_log = logging.getLogger(__name__)


class Claim:
  """A process's claim on a run's folder; held from `take` to `release`."""

  def __init__(self) -> None:
    self._file: IO[str] | None = None

  def take(self, folder: pathlib.Path) -> None:
    """Claims the folder, which must exist.

    A file system that knows no locks is warned of, and not guarded. A holder on
    another machine is waited for: that machine may be gone. So is a holder on
    this machine that has lost its parent: a process whose supervisor was killed
    saves the run and ends (`parallel.local.heed_supervisor`).

    Raises:
      SpecError: another process holds it.
      OSError: the folder cannot be written.
    """
    file = (folder / FILE).open("a+")
    began, told = time.monotonic(), ""
    try:
      while (holder := _lock(file)) is not None:
        if time.monotonic() - began >= _patience(holder):
          file.close()
          raise SpecError(
            f"--workdir={folder} is in use by another run ({holder}); wait "
            "for its end, stop it, or choose another folder"
          )
        if holder != told:
          _log.warning("%s is held by %s: waiting", folder, holder)
          told = holder
        time.sleep(_LOOK_SECONDS)
    except OSError as error:
      file.close()
      _log.warning(
        "%s cannot be locked (%s): see to it yourself that no other run "
        "writes there",
        folder,
        error.strerror,
      )
      return
    file.truncate(0)
    file.write(_HOLDER.format(os.getpid(), os.getppid(), socket.gethostname()))
    file.flush()
    self._file = file

  def release(self) -> None:
    """Gives the folder back, if this process holds it."""
    if self._file is not None:
      with contextlib.suppress(OSError):
        self._file.truncate(0)
      self._file.close()
      self._file = None


def _patience(holder: str) -> float:
  """Seconds for which a holder is waited for.

  Not at all for a process of this machine that is not orphaned.
  """
  found = re.fullmatch(r"process \d+ with parent (\d+) on (.+)", holder)
  if not found or found[2] != socket.gethostname():
    return _LEASE_SECONDS
  try:
    os.kill(int(found[1]), 0)
  except ProcessLookupError:
    return _ORPHAN_SECONDS
  except PermissionError:  # another user's process, and alive
    pass
  return 0.0


def _lock(file: IO[str]) -> str | None:
  """Locks the file: None, or else who holds it."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    return file.read().strip() or "another process"
  return None
