"""Runs a program in several local processes under one supervisor.

The supervisor does not import JAX. It sets the variables by which the processes
find each other, forwards signals to them, prefixes their output lines, and
combines their exit codes:

*   1, 2 or 3 if a process ended with it, because a restart would fail for the
    same reason;
*   else 76 if a process was killed or was aborted after another was killed: the
    run can be restarted;
*   else 75 if the processes were preempted;
*   else 0.

If the supervisor is killed, the processes receive SIGTERM.

With one process, no such variables are set, so this also supervises one host's
process of a multihost run.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import BinaryIO, NamedTuple, TextIO

from bigscale.parallel import cluster

DONE, PREEMPTED, LOST = 0, 75, 76
# Exit codes by decreasing priority.
_PRIORITY = (2, 1, 3, 130, LOST, PREEMPTED, DONE)
# Time for the other processes to end after one has failed.
_GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.1
# Environment variable with the supervisor's PID.
_SUPERVISOR = "BIGSCALE_SUPERVISOR"
# Option of Linux's prctl: the signal sent to a process when its parent dies.
_PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
  """How the processes ended.

  Attributes:
    code: combined exit code.
    asked: whether the supervisor received a signal to end.
  """

  code: int
  asked: bool


def run_locally(
  program: Sequence[str],
  processes: int,
  environ: Mapping[str, str] | None = None,
  grace_seconds: float = _GRACE_SECONDS,
) -> Ended:
  """Runs a program in several processes and waits for all of them.

  Call this in the main thread: it forwards SIGTERM and SIGINT to the processes.

  Args:
    program: command and arguments, the same for all processes.
    processes: number of processes, at least 1. Two or more processes connect
      over a free port of this machine.
    environ: environment variables of the processes; None means those of this
      process.
    grace_seconds: seconds between the failure of one process and killing the
      others.

  Returns:
    The combined exit code (see the module), and whether a signal arrived.
  """
  environ = dict(os.environ if environ is None else environ)
  port, prefixed = _free_port(), processes > 1
  started: list[subprocess.Popen] = []
  readers: list[threading.Thread] = []
  received: list[int] = []

  def forward(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    _send(started, number)

  # Installed before any process starts, so that no signal is lost.
  before = {
    number: signal.signal(number, forward)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    for index in range(processes):
      process = subprocess.Popen(
        program,
        env=environ | _variables(index, processes, port),
        stdout=subprocess.PIPE if prefixed else None,
        stderr=subprocess.PIPE if prefixed else None,
        # Ctrl-C in a terminal reaches only the supervisor, which forwards it.
        start_new_session=True,
      )
      started.append(process)
      if prefixed:
        pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        readers += [_copy_lines(index, pipe, to) for pipe, to in pairs]
    if received:
      # The signal may have arrived before all processes were started.
      _send(started, received[-1])
    _wait(started, grace_seconds)
  finally:
    _send(started, signal.SIGKILL)
    for number, handler in before.items():
      signal.signal(number, handler)
  for reader in readers:
    reader.join(timeout=5)
  code = one_code([process.returncode for process in started])
  return Ended(code, bool(received))


def heed_supervisor() -> None:
  """Makes this process receive SIGTERM when its supervisor dies (Linux only).

  The process requests this itself, because a request between fork and exec
  would run Python in a forked process that may have threads.
  """
  # Removed, because this process's children have another parent.
  supervisor = os.environ.pop(_SUPERVISOR, None)
  if supervisor is None or not sys.platform.startswith("linux"):
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
  if os.getppid() != int(supervisor):
    # The supervisor died before the request.
    os.kill(os.getpid(), signal.SIGTERM)


def one_code(codes: Sequence[int]) -> int:
  """Combines exit codes of processes; negative codes are signals."""
  plain = {
    LOST if code < 0 or code in (128 + 6, 128 + 9, 128 + 15) else code
    for code in codes
  }
  unknown = sorted(plain - set(_PRIORITY))
  return next(code for code in (*unknown, *_PRIORITY) if code in plain)


def _variables(index: int, processes: int, port: int) -> dict[str, str]:
  supervised = {_SUPERVISOR: str(os.getpid())}
  if processes == 1:
    return supervised
  return supervised | {
    cluster.COORDINATOR: f"127.0.0.1:{port}",
    cluster.NUM_PROCESSES: str(processes),
    cluster.PROCESS_ID: str(index),
  }


def _free_port() -> int:
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


def _wait(started: Sequence[subprocess.Popen], grace: float) -> None:
  """Waits until all processes have ended or the grace period is over."""
  until = None
  while None in (codes := [process.poll() for process in started]):
    if any(codes) and until is None:
      until = time.monotonic() + grace
    if until is not None and time.monotonic() > until:
      return
    time.sleep(_POLL_SECONDS)


def _send(started: Sequence[subprocess.Popen], number: int) -> None:
  for process in started:
    if process.poll() is None:
      process.send_signal(number)
  if number == signal.SIGKILL:
    for process in started:
      process.wait()


def _copy_lines(index: int, pipe: BinaryIO, to: TextIO) -> threading.Thread:
  """Copies lines in a thread, each prefixed with the process index."""
  write: Callable[[str], object] = to.write

  def copy() -> None:
    with pipe:
      for line in pipe:
        write(f"[{index}] {line.decode(errors='replace')}")
        to.flush()

  thread = threading.Thread(target=copy, daemon=True)
  thread.start()
  return thread
