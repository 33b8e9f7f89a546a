"""Leases, which let only one run write to a folder on a bucket at a time.

A bucket has no locks. A lease is an object `leases/NUMBER` that only one
process can create. Its holder replaces `beats/NUMBER` at regular intervals. If
the beat does not change for the time of the lease, by the clock of the process
that waits, the holder is lost, and that process may create the next number.

The number is part of the name of every row file that the holder writes
(`train/parts`), and the holder compares it with the newest number before it
commits a checkpoint. A process that was stopped, and continues after another
process has taken over, therefore overwrites nothing.
"""

import contextlib
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from bigscale.place import Place, open_place
from bigscale.spec import SpecError

# Beats in the time of a lease. Some of them may fail or be late.
_BEATS = 6
# The newest number is listed at every such beat. One that is taken over in the
# instant in which it continues after a stop does not notice it otherwise.
_BEATS_PER_LISTING = 3
_POLLS_PER_BEAT = 4
_PATIENCE_SECONDS = 60.0
_RELEASED = b"released"
# A process whose supervisor was killed saves a last checkpoint.
_ORPHAN_SECONDS = 900.0
_log = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
  """Another process has taken over the folder of this run."""


def _seconds_since_boot() -> float:
  # Unlike `time.monotonic`, it counts the time in which a machine is suspended.
  return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
  """An exclusive claim of a folder on a bucket, from `take` to `release`.

  Attributes:
    number: number of the lease, 1 or more; 0 if it is not held.
  """

  def __init__(
    self,
    seconds: float,
    *,
    clock: Callable[[], float] = _seconds_since_boot,
    sleep: Callable[[float], None] = time.sleep,
  ) -> None:
    """Initializes a lease that is not held.

    Args:
      seconds: time after which a holder without a beat is lost.
      clock: returns seconds.
      sleep: waits for seconds of `clock`.
    """
    self.number = 0
    self._seconds = seconds
    self._clock, self._sleep = clock, sleep
    self._place: Place | None = None
    self._beats = 0
    # No other process may take over before this time plus `_seconds`.
    self._beat_at = 0.0
    self._lost = ""
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def take(self, folder: str | os.PathLike[str]) -> None:
    """Claims a folder and starts the beats.

    A lease whose holder released it, or is known to be dead, is taken at once.
    Otherwise, this waits until the beats show whether the holder is alive.

    Raises:
      SpecError: if another process holds the folder.
      OSError: if the bucket cannot be read or written.
    """
    patience = min(self._seconds, _PATIENCE_SECONDS)
    self._place = place = open_place(folder, patience)
    self._stop.clear()
    last = _newest(place)
    if last:
      self._wait_for_end(last)
    if not place.create(_lease(last + 1), json.dumps(self._about()).encode()):
      raise self._refusal(_holder_of(place, last + 1))
    self.number = last + 1
    self._beat()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def is_seen(self, folder: str | os.PathLike[str]) -> bool:
    """Returns whether this process sees the leases of a folder."""
    return bool(_newest(open_place(folder)))

  def check(self) -> None:
    """Raises if the lease is known to be lost; makes no request.

    Raises:
      LeaseLostError: if another process has taken over.
    """
    if self._lost:
      raise LeaseLostError(self._lost)

  def verify(self) -> None:
    """Asks the bucket whether the lease is still held.

    Raises:
      LeaseLostError: if another process has taken over.
      OSError: if the bucket cannot be read.
    """
    if self.number:
      self._compare()
      self.check()

  def release(self) -> None:
    """Ends the beats and lets any process take the folder at once."""
    if not self.number:
      return
    self._stop.set()
    if self._thread is not None:
      self._thread.join()
    # Without this object, the next run waits until the beats have stopped.
    with contextlib.suppress(OSError):
      if not self._lost:
        self._place.write(_beat(self.number), _RELEASED)
    self.number = 0

  def _wait_for_end(self, number: int) -> None:
    """Waits until a lease has ended.

    A holder on another machine may be about to end, because its replacement has
    been started. It has the time of a lease for that. A holder on this machine
    is refused at its first new beat, unless its supervisor is dead.

    Raises:
      SpecError: if its holder goes on.
    """
    holder = _holder_of(self._place, number)
    seconds = max(self._seconds, holder.get("seconds", 0.0))
    began = seen_at = self._clock()
    seen = self._read_beat(number)
    if seen != _RELEASED and not _is_dead(holder):
      _log.warning(
        "--workdir=%s was last used by %s; waiting up to %.0f s for its end",
        self._place.url,
        holder.get("name"),
        seconds,
      )
    patience = _patience(holder, seconds)
    while seen != _RELEASED and not _is_dead(holder):
      now = self._clock()
      if now - seen_at >= seconds:
        return
      self._sleep(seconds / _BEATS / _POLLS_PER_BEAT)
      if (beat := self._read_beat(number)) != seen:
        seen, seen_at = beat, self._clock()
        if seen != _RELEASED and seen_at - began >= patience:
          raise self._refusal(holder)

  def _read_beat(self, number: int) -> bytes:
    try:
      return self._place.read(_beat(number))
    except FileNotFoundError:
      return b""

  def _refusal(self, holder: dict[str, Any]) -> SpecError:
    return SpecError(
      f"--workdir={self._place.url} is in use by another run "
      f"({holder.get('name', 'another process')}). Wait until it ends, stop "
      "it, or choose another folder"
    )

  def _about(self) -> dict[str, Any]:
    """Returns the content of the lease."""
    name = (
      f"process {os.getpid()} with parent {os.getppid()} on "
      f"{socket.gethostname()}"
    )
    return {
      "name": name,
      "machine": machine(),
      "pid": os.getpid(),
      "parent": os.getppid(),
      "started": _started(os.getpid()),
      "seconds": self._seconds,
      # A process that repeats a request recognizes its own object.
      "token": uuid.uuid4().hex,
    }

  def _run(self) -> None:
    while not self._stop.wait(self._seconds / _BEATS):
      try:
        self._beat()
      except OSError as error:
        _log.warning("cannot renew the lease of %s: %s", self._place.url, error)
      if self._lost:
        return

  def _beat(self) -> None:
    """Replaces the beat, and lists the leases now and then."""
    now = self._clock()
    late = self._beats and now - self._beat_at >= self._seconds
    if late:
      self._compare()
      if self._lost:
        return
    self._beats += 1
    self._place.write(_beat(self.number), f"{self._beats}".encode())
    self._beat_at = now
    if late or self._beats % _BEATS_PER_LISTING == 0:
      self._compare()

  def _compare(self) -> None:
    newest = _newest(self._place)
    if newest > self.number and not self._lost:
      holder = _holder_of(self._place, newest).get("name", "another process")
      self._lost = (
        f"{holder} has taken over --workdir={self._place.url}, because this "
        f"process did not renew its lease for {self._seconds:g} s. This "
        "process writes nothing more"
      )


def _lease(number: int) -> str:
  return f"leases/{number:06d}"


def _beat(number: int) -> str:
  return f"beats/{number:06d}"


def _newest(place: Place) -> int:
  """Returns the largest number of a lease; 0 if there is none."""
  names = (entry.name.rpartition("/")[2] for entry in place.list("leases/"))
  return max((int(name) for name in names if name.isdecimal()), default=0)


def _holder_of(place: Place, number: int) -> dict[str, Any]:
  """Returns the content of a lease; {} if it cannot be understood."""
  try:
    found = json.loads(place.read(_lease(number)))
  except (FileNotFoundError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _patience(holder: dict[str, Any], seconds: float) -> float:
  """Returns the seconds after which a holder that is alive is refused."""
  if holder.get("machine") != machine():
    return seconds
  try:
    os.kill(int(holder["parent"]), 0)
  except ProcessLookupError:
    return _ORPHAN_SECONDS
  except PermissionError:  # running as another user
    pass
  return 0.0


def _is_dead(holder: dict[str, Any]) -> bool:
  """Returns whether a holder was a process of this machine that has ended."""
  return holder.get("machine") == machine() and (
    _started(holder.get("pid", 0)) != holder.get("started")
  )


def machine() -> str:
  """Returns an identifier of this start of the machine and its process numbers.

  Containers on one machine have different process numbers.
  """
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str:
  """Returns when a process started, in clock ticks; "" if it has ended."""
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return ""
  # The name of the program may contain spaces and parentheses.
  state, *fields = text.rpartition(")")[2].split()
  return "" if state in "ZX" else fields[18]
