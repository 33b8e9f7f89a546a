"""What every process is at, told to all: hangs, failures and lost peers.

A process of many waits for the others in collectives: where one is stuck in
its data, all stand still and none fails, since its heartbeat goes on. Where one
fails, the others would wait, and be aborted minutes later with a code that says
nothing.

So a thread of every process writes what it is at, and for how long, into JAX's
coordination service, and reads there whether to end. One that is at the same
thing for too long, or fails, says so; all then print their stacks or the
reason, and end with the same exit code within seconds.
"""

import collections
import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

BUG, USAGE, HUNG = 1, 2, 76

_ROOT = "bigscale/watch"
# A folder, since to ask for a key that is not there is an error.
_ABORT = f"{_ROOT}/abort/"
_LOOK_SECONDS = 1.0
# Each process more that looks is work for the coordinator.
_LOOK_SECONDS_PER_PROCESS = 0.005
# Before a process is ended that may be ending itself: one that was told, and
# the one that failed; it may wait for a save that others have left, and must be
# gone before JAX misses their heartbeats and aborts it.
_GRACE_SECONDS = 6.0
_OWN_GRACE_SECONDS = 10.0
# Of a process other than 0 that failed: less than process 0 is given.
_FAREWELL_SECONDS = 5.0
# Without a sign of life for so many looks, a process is gone.
_MISSED_LOOKS = 4
# Which the others get to end before the coordinator does.
_LAST_LOOKS = 3
# Where hosts wait for devices, and so for each other.
_WAITING = ("step",)


class _At(NamedTuple):
  phase: str
  since: float


class Host(NamedTuple):
  """What a process has done.

  Attributes:
    step: that it is at.
    busy: seconds of work on the host.
    waited: seconds that it waited for devices, and so for the others.
  """

  step: int
  busy: float
  waited: float


class Watch:
  """The phases of one process, and its eye on the others."""

  def __init__(
    self, client: Any = None, index: int = 0, count: int = 1
  ) -> None:
    """Watches nothing yet.

    Args:
      client: of JAX's coordination service; None of a single process.
      index: of this process.
      count: of processes.
    """
    self._client, self._index, self._count = client, index, count
    self._stack = [_At("start", time.monotonic())]
    self._taken: collections.Counter[str] = collections.Counter()
    # Since the beginning: at work on this host, and waiting for devices.
    self._busy = self._waited = 0.0
    self._counted = time.monotonic()
    self._step = 0
    self._beat = 0
    self._limits: Mapping[str, float] = {}
    self._lock = threading.Lock()
    self._stopped = threading.Event()
    self._thread: threading.Thread | None = None
    self._failure: tuple[Exception, int] | None = None
    # By process, its last sign of life, and when it was seen.
    self._seen: dict[int, tuple[int, float]] = {}

  def start(self) -> None:
    """Begins to look, once a second."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, daemon=True)
      self._thread.start()

  def stop(self) -> None:
    """Looks no more."""
    self._stopped.set()
    if self._thread is not None:
      self._thread.join(timeout=5)

  @contextlib.contextmanager
  def limited(self, seconds: Mapping[str, float]) -> Iterator[None]:
    """Ends the program where a phase takes longer, while this is open.

    Args:
      seconds: by phase; those that are not named may take for ever.
    """
    self._limits = dict(seconds)
    self.start()
    try:
      yield
    finally:
      self._limits = {}

  @contextlib.contextmanager
  def phase(self, name: str, step: int | None = None) -> Iterator[None]:
    """What the process is at; within another, its time is not the other's.

    Args:
      name: of the phase.
      step: of the training.
    """
    self._enter(name, step)
    try:
      yield
    finally:
      self._leave()

  def take_seconds(self) -> dict[str, float]:
    """Seconds in each phase since the last call, all of the wall's time."""
    with self._lock:
      self._count_time()
      taken, self._taken = dict(self._taken), collections.Counter()
    return taken

  def hosts(self) -> dict[int, "Host"]:
    """What every process has done so far, as it said a second ago."""
    signs = self._signs() if self._client is not None else {}
    return {
      n: Host(sign["step"], sign["busy"], sign["waited"])
      for n, sign in signs.items()
    }

  def announce(self, code: int, why: str) -> None:
    """Tells the others to end with an exit code; the first to do so counts."""
    if self._client is None:
      return
    told = {"code": code, "why": why, "process": self._index}
    with contextlib.suppress(Exception):
      self._client.key_value_set(f"{_ABORT}first", json.dumps(told))

  def fail(self, error: Exception, code: int, is_talk: bool) -> int:
    """See `multihost.fail`.

    Args:
      error: what was raised.
      code: that it has in itself.
      is_talk: whether talk with the others may have failed, which is then
        their failure. To find out takes some seconds: who is gone gives no
        sign of life.

    Returns:
      The exit code.
    """
    if self._failure is None or self._failure[0] is not error:
      # Now: nobody knows whether the program gets to the end of this.
      if code == BUG:
        traceback.print_exception(error)
      why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
      found = self._code_of_talk(why) if is_talk else code
      self.announce(found, why)
      self._failure = (error, found)
    return self._failure[1]

  def _code_of_talk(self, why: str) -> int:
    """That of who failed first; 76 where a process is gone; else 1."""
    try:
      before = self._signs()
      time.sleep(self._pause * _MISSED_LOOKS)
      told, after = self._told(), self._signs()
    except Exception:
      # So is the coordinator.
      return HUNG
    if told:
      return told["code"]
    gone = [n for n in before if before[n]["beat"] == after[n]["beat"]]
    if gone:
      self.announce(HUNG, f"process {gone[0]} is gone")
      return HUNG
    self.announce(BUG, why)
    return BUG

  @property
  def farewell_seconds(self) -> float:
    """How long a process that has told the others to end waits for them.

    Process 0, with which the coordinator goes, until they have ended; any other
    for less than process 0 gives it, or JAX aborts it.
    """
    if self._index:
      return _FAREWELL_SECONDS
    return _GRACE_SECONDS + self._pause * (1 + _LAST_LOOKS)

  @property
  def _pause(self) -> float:
    return _LOOK_SECONDS + _LOOK_SECONDS_PER_PROCESS * self._count

  def _enter(self, name: str, step: int | None) -> None:
    with self._lock:
      self._count_time()
      self._step = self._step if step is None else step
      self._stack.append(_At(name, self._counted))

  def _leave(self) -> None:
    with self._lock:
      self._count_time()
      self._stack.pop()
      # What it goes on with has not lasted while it was away.
      self._stack[-1] = _At(self._stack[-1].phase, self._counted)

  def _count_time(self) -> None:
    now = time.monotonic()
    phase, passed = self._stack[-1].phase, now - self._counted
    self._taken[phase] += passed
    if phase in _WAITING:
      self._waited += passed
    else:
      self._busy += passed
    self._counted = now

  def _run(self) -> None:
    while not self._stopped.wait(self._pause):
      with contextlib.suppress(Exception):
        # A coordinator that is gone or ending: JAX says so itself.
        self._look()

  def _look(self) -> None:
    at = self._stack[-1]
    seconds = time.monotonic() - at.since
    self._beat += 1
    if self._client is not None:
      sign = {
        "phase": at.phase,
        "seconds": seconds,
        "step": self._step,
        "beat": self._beat,
        "busy": self._busy,
        "waited": self._waited,
      }
      self._client.key_value_set(
        f"{_ROOT}/alive/{self._index}", json.dumps(sign), allow_overwrite=True
      )
      told = self._told()
      if told:
        self._end(told)
    limit = self._limits.get(at.phase)
    late = limit is not None and seconds > limit
    if late and not (at.phase in _WAITING and self._waits_for(limit)):
      why = self._describe(at.phase, seconds, limit)
      self.announce(HUNG, why)
      self._end(self._told() or {"code": HUNG, "why": why, "process": None})

  def _waits_for(self, limit: float) -> list[int]:
    """Processes that are at something else than to wait for the others.

    They judge themselves. One that gives no sign for longer than the limit
    cannot.
    """
    now = time.monotonic()
    signs = self._signs() if self._client is not None else {}
    for n, sign in signs.items():
      if self._seen.get(n, (None, 0.0))[0] != sign["beat"]:
        self._seen[n] = (sign["beat"], now)
    return [
      n
      for n, sign in signs.items()
      if sign["phase"] not in _WAITING and now - self._seen[n][1] < limit
    ]

  def _end(self, told: Mapping[str, Any]) -> None:
    """Ends this process, unless it does so itself in time."""
    if told["process"] == self._index and told["code"] != HUNG:
      time.sleep(_OWN_GRACE_SECONDS)
    elif told["code"] != HUNG:
      time.sleep(_GRACE_SECONDS)
    else:
      faulthandler.dump_traceback(sys.stderr, all_threads=True)
    who = "" if told["process"] is None else f"process {told['process']}: "
    print(
      f"bigscale: ended with code {told['code']}: {who}{told['why']}",
      file=sys.stderr,
      flush=True,
    )
    sys.stdout.flush()
    if self._index == 0 and self._client is not None:
      # With it the coordinator goes, and others would be aborted.
      time.sleep(self._pause * _LAST_LOOKS)
    os._exit(told["code"])

  def _describe(self, phase: str, seconds: float, limit: float) -> str:
    """Who is stuck in what: those that do not just wait for the others."""
    signs = self._signs() if self._client is not None else {}
    signs[self._index] = {
      "phase": phase,
      "seconds": seconds,
      "step": self._step,
    }
    busy = {
      n: sign
      for n, sign in signs.items()
      if sign["phase"] not in _WAITING and sign["seconds"] > limit / 2
    }
    stuck = "; ".join(
      f"process {n} is in {sign['phase']} for {sign['seconds']:.0f} s, at step "
      f"{sign['step']}"
      for n, sign in sorted((busy or signs).items())
    )
    others = sorted(signs.keys() - (busy or signs).keys())
    waiting = f" (waiting for it: {', '.join(map(str, others))})"
    return f"nothing moves: {stuck}{waiting if others else ''}"

  def _signs(self) -> dict[int, dict[str, Any]]:
    found = self._client.key_value_dir_get(f"{_ROOT}/alive/")
    return {int(k.rpartition("/")[2]): json.loads(text) for k, text in found}

  def _told(self) -> dict[str, Any] | None:
    if self._client is None:
      return None
    found = self._client.key_value_dir_get(_ABORT)
    return json.loads(found[0][1]) if found else None
