"""One run in several processes of this machine, under one supervisor.

The supervisor computes nothing and does not import JAX. It tells the processes
of each other, passes signals on to them, marks their lines, and makes one exit
code of theirs that says what happened:

*   a process that ended with 1, 2 or 3 had a reason that a restart would only
    repeat, whatever became of the others;
*   else 76, where a process was killed, or was aborted since another one was:
    start again;
*   else 75, where they were preempted; else 0.

A supervisor that is killed takes the processes along: to them it is SIGTERM.

With one process no meeting is arranged: a host's process of a run of many hosts
is supervised like any other.
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
# In the order in which one tells more than the next.
_TELLING = (2, 1, 3, 130, LOST, PREEMPTED, DONE)
# For the others, once one has ended and not well.
_GRACE_SECONDS = 30.0
_LOOK_SECONDS = 0.1
# Tells a process who watches over it.
_SUPERVISOR = "BIGSCALE_SUPERVISOR"
# Of Linux's prctl: the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
  """How processes ended.

  Attributes:
    code: one exit code of theirs.
    asked: whether a signal asked them to.
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

  Call it in the main thread: while it runs, SIGTERM and SIGINT go to the
  processes.

  Args:
    program: words of its command, the same for all.
    processes: how many, from 1. From 2 on they meet on a free port of this
      machine.
    environ: theirs; this process's where None.
    grace_seconds: that the others get when one has failed or was killed, before
      they are killed, too.

  Returns:
    One exit code for all (see the module), and whether they were asked to end.
  """
  environ = dict(os.environ if environ is None else environ)
  port, marked = _free_port(), processes > 1
  started: list[subprocess.Popen] = []
  readers: list[threading.Thread] = []
  told: list[int] = []

  def pass_on(number: int, frame: FrameType | None) -> None:
    del frame
    told.append(number)
    _send(started, number)

  # Before there is anybody whom a signal could miss.
  before = {
    number: signal.signal(number, pass_on)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    for index in range(processes):
      process = subprocess.Popen(
        program,
        env=environ | _place(index, processes, port),
        stdout=subprocess.PIPE if marked else None,
        stderr=subprocess.PIPE if marked else None,
        # A terminal's Ctrl-C goes to the supervisor alone, which passes it on.
        start_new_session=True,
      )
      started.append(process)
      if marked:
        pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        readers += [_mark(index, pipe, to) for pipe, to in pairs]
    if told:
      # It came while they were being started.
      _send(started, told[-1])
    _wait(started, grace_seconds)
  finally:
    _send(started, signal.SIGKILL)
    for number, handler in before.items():
      signal.signal(number, handler)
  for reader in readers:
    reader.join(timeout=5)
  code = one_code([process.returncode for process in started])
  return Ended(code, bool(told))


def heed_supervisor() -> None:
  """Has this process sent SIGTERM when its supervisor dies, if it has one.

  On Linux. It asks for it itself: to ask between fork and exec would run
  Python in a forked process that may have threads.
  """
  # Not told any further: who is started by this one has another parent.
  supervisor = os.environ.pop(_SUPERVISOR, None)
  if supervisor is None or not sys.platform.startswith("linux"):
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
  if os.getppid() != int(supervisor):
    # It died before.
    os.kill(os.getpid(), signal.SIGTERM)


def one_code(codes: Sequence[int]) -> int:
  """What the codes of processes come to; negative ones are signals."""
  plain = {
    LOST if code < 0 or code in (128 + 6, 128 + 9, 128 + 15) else code
    for code in codes
  }
  unknown = sorted(plain - set(_TELLING))
  return next(code for code in (*unknown, *_TELLING) if code in plain)


def _place(index: int, processes: int, port: int) -> dict[str, str]:
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
  """Until all have ended, or the grace is over."""
  until = None
  while None in (codes := [process.poll() for process in started]):
    if any(codes) and until is None:
      until = time.monotonic() + grace
    if until is not None and time.monotonic() > until:
      return
    time.sleep(_LOOK_SECONDS)


def _send(started: Sequence[subprocess.Popen], number: int) -> None:
  for process in started:
    if process.poll() is None:
      process.send_signal(number)
  if number == signal.SIGKILL:
    for process in started:
      process.wait()


def _mark(index: int, pipe: BinaryIO, to: TextIO) -> threading.Thread:
  """Copies lines, each with its process's number in front."""
  write: Callable[[str], object] = to.write

  def copy() -> None:
    with pipe:
      for line in pipe:
        write(f"[{index}] {line.decode(errors='replace')}")
        to.flush()

  thread = threading.Thread(target=copy, daemon=True)
  thread.start()
  return thread
