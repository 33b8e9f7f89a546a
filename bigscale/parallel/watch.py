"""A watchdog for hanging, failed and lost processes.

Processes wait for each other in collectives. If one process is stuck while it
loads data, all of them hang, but none fails, because heartbeats continue. If
one process fails, the others wait for it and are aborted minutes later with a
meaningless exit code.

Therefore, a thread of each process writes the current phase and its duration
into JAX's coordination service and reads from it whether to end. A process that
fails, or stays in a phase for too long, writes this there. All processes then
print their stack traces or the reason, and end with the same exit code within
seconds.
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
# A folder, because reading a missing key is an error.
_ABORT = f"{_ROOT}/abort/"
_POLL_SECONDS = 1.0
# The interval grows with the number of processes to limit the coordinator's
# load.
_POLL_SECONDS_PER_PROCESS = 0.005
# Time for a process to end by itself before the watchdog ends it: when another
# process has failed, and when this process has failed. A failed process may
# wait for a save that the others have abandoned. It must end before JAX misses
# the others' heartbeats and aborts it.
_GRACE_SECONDS = 6.0
_OWN_GRACE_SECONDS = 10.0
# How long a failed process other than 0 waits for the others. This is less than
# the time that process 0 waits for it.
_FAREWELL_SECONDS = 5.0
# A process is dead if it has not written its state for this many intervals.
_MISSED_POLLS = 4
# Intervals for which process 0 waits for the others to end. The coordinator
# ends with process 0.
_LAST_POLLS = 3
# Phases in which a host waits for devices, and thus for the other hosts.
_WAITING = ("step",)


class _Phase(NamedTuple):
  name: str
  since: float


class Host(NamedTuple):
  """The progress of a process.

  Attributes:
    step: current step.
    busy: total seconds of work on the host.
    waited: total seconds of waiting for devices, and thus for other hosts.
  """

  step: int
  busy: float
  waited: float


class Watch:
  """Records the phases of this process and watches the other processes."""

  def __init__(
    self, client: Any = None, index: int = 0, count: int = 1
  ) -> None:
    """Initializes the watchdog without starting it.

    Args:
      client: client of JAX's coordination service; None with one process.
      index: index of this process.
      count: number of processes.
    """
    self._client, self._index, self._count = client, index, count
    self._stack = [_Phase("start", time.monotonic())]
    self._phase_seconds: collections.Counter[str] = collections.Counter()
    # Total seconds of work on this host and of waiting for devices.
    self._busy = self._waited = 0.0
    self._counted = time.monotonic()
    self._step = 0
    self._beat = 0
    self._limits: Mapping[str, float] = {}
    self._lock = threading.Lock()
    self._stopped = threading.Event()
    self._thread: threading.Thread | None = None
    self._failure: tuple[Exception, int] | None = None
    # By process, its last beat and the time when it was first seen.
    self._seen: dict[int, tuple[int, float]] = {}

  def start(self) -> None:
    """Starts the watchdog thread, which polls about once a second."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, daemon=True)
      self._thread.start()

  def stop(self) -> None:
    """Stops the watchdog thread."""
    self._stopped.set()
    if self._thread is not None:
      self._thread.join(timeout=5)

  @contextlib.contextmanager
  def limited(self, seconds: Mapping[str, float]) -> Iterator[None]:
    """Ends the program if a phase in this context exceeds its limit.

    Args:
      seconds: maximum seconds by phase; other phases are not limited.
    """
    self._limits = dict(seconds)
    self.start()
    try:
      yield
    finally:
      self._limits = {}

  @contextlib.contextmanager
  def phase(self, name: str, step: int | None = None) -> Iterator[None]:
    """Sets the current phase inside this context.

    The time of a nested phase does not count for the outer phase.

    Args:
      name: name of the phase.
      step: training step.
    """
    self._enter(name, step)
    try:
      yield
    finally:
      self._leave()

  def take_seconds(self) -> dict[str, float]:
    """Returns the seconds in each phase since the last call.

    The sum of all phases is the elapsed wall time.
    """
    with self._lock:
      self._count_time()
      seconds = dict(self._phase_seconds)
      self._phase_seconds = collections.Counter()
    return seconds

  def hosts(self) -> dict[int, "Host"]:
    """Returns the progress of each process, about a second old."""
    states = self._states() if self._client is not None else {}
    return {
      n: Host(state["step"], state["busy"], state["waited"])
      for n, state in states.items()
    }

  def announce(self, code: int, why: str) -> None:
    """Asks all processes to end with an exit code; only the first call counts.

    Args:
      code: exit code.
      why: reason to print.
    """
    if self._client is None:
      return
    abort = {"code": code, "why": why, "process": self._index}
    with contextlib.suppress(Exception):
      self._client.key_value_set(f"{_ABORT}first", json.dumps(abort))

  def fail(self, error: Exception, code: int, may_be_remote: bool) -> int:
    """Implements `multihost.fail`.

    Args:
      error: exception.
      code: exit code if this process caused the error.
      may_be_remote: whether the error may come from communication with a
        process that has failed. Finding out takes some seconds: a dead process
        no longer writes its state.

    Returns:
      The exit code.
    """
    if self._failure is None or self._failure[0] is not error:
      # Print now, because this process may be ended before it could print.
      if code == BUG:
        traceback.print_exception(error)
      why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
      found = self._code_of_remote_failure(why) if may_be_remote else code
      self.announce(found, why)
      self._failure = (error, found)
    return self._failure[1]

  def _code_of_remote_failure(self, why: str) -> int:
    """Returns the first failure's code; 76 if a process is dead; else 1."""
    try:
      before = self._states()
      time.sleep(self._interval * _MISSED_POLLS)
      abort, after = self._abort(), self._states()
    except Exception:
      # The coordinator is dead.
      return HUNG
    if abort:
      return abort["code"]
    dead = [n for n in before if before[n]["beat"] == after[n]["beat"]]
    if dead:
      self.announce(HUNG, f"process {dead[0]} is dead")
      return HUNG
    self.announce(BUG, why)
    return BUG

  @property
  def farewell_seconds(self) -> float:
    """Seconds that a failed process waits for the others to end.

    The coordinator ends with process 0, so process 0 waits until the others
    have ended. Any other process waits for less time, or JAX would abort it.
    """
    if self._index:
      return _FAREWELL_SECONDS
    return _GRACE_SECONDS + self._interval * (1 + _LAST_POLLS)

  @property
  def _interval(self) -> float:
    return _POLL_SECONDS + _POLL_SECONDS_PER_PROCESS * self._count

  def _enter(self, name: str, step: int | None) -> None:
    with self._lock:
      self._count_time()
      self._step = self._step if step is None else step
      self._stack.append(_Phase(name, self._counted))

  def _leave(self) -> None:
    with self._lock:
      self._count_time()
      self._stack.pop()
      # The limit of the outer phase starts again.
      self._stack[-1] = _Phase(self._stack[-1].name, self._counted)

  def _count_time(self) -> None:
    now = time.monotonic()
    phase, passed = self._stack[-1].name, now - self._counted
    self._phase_seconds[phase] += passed
    if phase in _WAITING:
      self._waited += passed
    else:
      self._busy += passed
    self._counted = now

  def _run(self) -> None:
    while not self._stopped.wait(self._interval):
      with contextlib.suppress(Exception):
        # If the coordinator is dead or ending, JAX reports it.
        self._poll()

  def _poll(self) -> None:
    phase = self._stack[-1]
    seconds = time.monotonic() - phase.since
    self._beat += 1
    if self._client is not None:
      state = {
        "phase": phase.name,
        "seconds": seconds,
        "step": self._step,
        "beat": self._beat,
        "busy": self._busy,
        "waited": self._waited,
      }
      self._client.key_value_set(
        f"{_ROOT}/alive/{self._index}", json.dumps(state), allow_overwrite=True
      )
      abort = self._abort()
      if abort:
        self._end(abort)
    limit = self._limits.get(phase.name)
    late = limit is not None and seconds > limit
    if late and not (phase.name in _WAITING and self._waits_for(limit)):
      why = self._describe(phase.name, seconds, limit)
      self.announce(HUNG, why)
      self._end(self._abort() or {"code": HUNG, "why": why, "process": None})

  def _waits_for(self, limit: float) -> list[int]:
    """Returns the processes that do not wait for the others.

    They check their own limits. Processes that have not written their state for
    longer than the limit are excluded, because they cannot check it.
    """
    now = time.monotonic()
    states = self._states() if self._client is not None else {}
    for n, state in states.items():
      if self._seen.get(n, (None, 0.0))[0] != state["beat"]:
        self._seen[n] = (state["beat"], now)
    return [
      n
      for n, state in states.items()
      if state["phase"] not in _WAITING and now - self._seen[n][1] < limit
    ]

  def _end(self, abort: Mapping[str, Any]) -> None:
    """Ends this process if it does not end by itself in time."""
    if abort["process"] == self._index and abort["code"] != HUNG:
      time.sleep(_OWN_GRACE_SECONDS)
    elif abort["code"] != HUNG:
      time.sleep(_GRACE_SECONDS)
    else:
      faulthandler.dump_traceback(sys.stderr, all_threads=True)
    who = "" if abort["process"] is None else f"process {abort['process']}: "
    print(
      f"bigscale: ended with code {abort['code']}: {who}{abort['why']}",
      file=sys.stderr,
      flush=True,
    )
    sys.stdout.flush()
    if self._index == 0 and self._client is not None:
      # The coordinator ends with process 0, and JAX would abort the others.
      time.sleep(self._interval * _LAST_POLLS)
    os._exit(abort["code"])

  def _describe(self, phase: str, seconds: float, limit: float) -> str:
    """Returns a message with the processes that hang and their phases."""
    states = self._states() if self._client is not None else {}
    states[self._index] = {
      "phase": phase,
      "seconds": seconds,
      "step": self._step,
    }
    busy = {
      n: state
      for n, state in states.items()
      if state["phase"] not in _WAITING and state["seconds"] > limit / 2
    }
    stuck = "; ".join(
      f"process {n} has been in phase {state['phase']} for "
      f"{state['seconds']:.0f} s, at step {state['step']}"
      for n, state in sorted((busy or states).items())
    )
    others = sorted(states.keys() - (busy or states).keys())
    waiting = f" (waiting processes: {', '.join(map(str, others))})"
    return f"the run hangs: {stuck}{waiting if others else ''}"

  def _states(self) -> dict[int, dict[str, Any]]:
    found = self._client.key_value_dir_get(f"{_ROOT}/alive/")
    return {int(k.rpartition("/")[2]): json.loads(text) for k, text in found}

  def _abort(self) -> dict[str, Any] | None:
    if self._client is None:
      return None
    found = self._client.key_value_dir_get(_ABORT)
    return json.loads(found[0][1]) if found else None
