"""A lock that lets only one run write to a folder at a time.

Two runs that write to the same folder would silently delete each other's
checkpoints. The lock is a kernel lock (flock). The kernel releases it when the
process ends for any reason, so a restart never finds a stale lock.
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
# NFS releases the locks of a lost machine when its lease expires, usually after
# 90 s. A run that restarts on another machine waits for that.
_LEASE_SECONDS = 120.0
# A process whose supervisor was killed saves a last checkpoint, which can be
# large.
_ORPHAN_SECONDS = 900.0
_POLL_SECONDS = 1.0
_HOLDER = "process {} with parent {} on {}\n"
_log = logging.getLogger(__name__)


class Claim:
  """An exclusive lock on a run folder, held from `take` to `release`."""

  def __init__(self) -> None:
    self._file: IO[str] | None = None

  def take(self, folder: pathlib.Path) -> None:
    """Locks the folder, which must exist.

    If another machine holds the lock, this waits for a while, because that
    machine may be lost. It also waits for a process of this machine whose
    parent is dead: a process whose supervisor was killed saves the run and ends
    (`parallel.local.heed_supervisor`). On a file system without locks, this
    only logs a warning.

    Raises:
      SpecError: if another process holds the lock.
      OSError: if the folder is not writable.
    """
    file = (folder / FILE).open("a+")
    began, reported = time.monotonic(), ""
    try:
      while (holder := _lock(file)) is not None:
        if time.monotonic() - began >= _max_wait(holder):
          file.close()
          raise SpecError(
            f"--workdir={folder} is in use by another run ({holder}). Wait "
            "until it ends, stop it, or choose another folder"
          )
        if holder != reported:
          _log.warning("waiting for %s, which is locked by %s", folder, holder)
          reported = holder
        time.sleep(_POLL_SECONDS)
    except OSError as error:
      file.close()
      _log.warning(
        "cannot lock %s (%s): make sure that no other run writes to this "
        "folder",
        folder,
        error.strerror,
      )
      return
    file.truncate(0)
    file.write(_HOLDER.format(os.getpid(), os.getppid(), socket.gethostname()))
    file.flush()
    self._file = file

  def is_seen(self, folder: pathlib.Path) -> bool:
    """Returns whether this process sees the lock of a folder."""
    return (folder / FILE).is_file()

  def release(self) -> None:
    """Releases the lock if this process holds it."""
    if self._file is not None:
      with contextlib.suppress(OSError):
        self._file.truncate(0)
      self._file.close()
      self._file = None


def _max_wait(holder: str) -> float:
  """Returns the maximum seconds to wait for a holder of the lock.

  It is 0 for a process of this machine that still has its parent.
  """
  found = re.fullmatch(r"process \d+ with parent (\d+) on (.+)", holder)
  if not found or found[2] != socket.gethostname():
    return _LEASE_SECONDS
  try:
    os.kill(int(found[1]), 0)
  except ProcessLookupError:
    return _ORPHAN_SECONDS
  except PermissionError:  # running as another user
    pass
  return 0.0


def _lock(file: IO[str]) -> str | None:
  """Locks the file and returns None, or returns the current holder."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    return file.read().strip() or "another process"
  return None
