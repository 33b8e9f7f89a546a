"""Handles SIGTERM, which asks a run to save and end."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from bigscale.parallel import multihost
from bigscale.parallel.interruption import InterruptedWorkError

T = TypeVar("T")


class PreemptedError(RuntimeError):
  """The run was asked to end; it is saved and can be resumed."""


class Preemption:
  """Detects a request to end the run, consistently on all processes."""

  def __init__(self) -> None:
    self._asked = False
    # Number of calls of `asked`. With several processes, JAX chooses a future
    # call, and all processes return True at that call.
    self._calls = 0

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Handles SIGTERM in the main thread of a single process.

    With several processes, JAX's preemption service handles the signal. If any
    process receives it, the service chooses a future call of `asked` at which
    all processes end.
    """
    handles = (
      jax.process_count() == 1
      and threading.current_thread() is threading.main_thread()
    )
    if not handles:
      yield
      return
    before = signal.signal(signal.SIGTERM, self._note)
    try:
      yield
    finally:
      signal.signal(signal.SIGTERM, before)

  def asked(self) -> bool:
    """Returns whether to save and end now.

    All processes must call this equally often.
    """
    if jax.process_count() > 1 and not self._asked:
      self._calls += 1
      self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
    return self._asked

  def decide(self, name: str, choose: Callable[[], T]) -> T:
    """Calls `multihost.decide` with work that can be interrupted.

    During the work, only process 0 calls `asked`. The others wait for it and
    copy its number of calls.

    Args:
      name: name of the decision, for error messages.
      choose: see `multihost.decide`; may raise `InterruptedWorkError`.

    Raises:
      InterruptedWorkError: if the work was interrupted; on all processes.
    """
    if jax.process_count() == 1:
      return choose()

    def work() -> dict[str, object]:
      try:
        value, interrupted = choose(), False
      except InterruptedWorkError:
        value, interrupted = None, True
      return {"value": value, "calls": self._calls, "interrupted": interrupted}

    result = multihost.decide(name, work)
    self._calls = result["calls"]
    if result["interrupted"]:
      self._asked = True
      raise InterruptedWorkError
    return result["value"]

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._asked = True
