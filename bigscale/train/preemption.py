"""SIGTERM: the machine is wanted back, and the run may save itself first."""

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
  """The run was asked to end, has saved itself, and wants to be resumed."""


class Preemption:
  """Whether the run was asked to end."""

  def __init__(self) -> None:
    self._asked = False
    # How often this was asked. With several processes JAX names a number that
    # all have yet to reach, and each says so when it comes to it.
    self._calls = 0

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Notices SIGTERM while it is open, where this is the main thread.

    With several processes JAX's own service listens: it tells all of them of a
    signal to any, and names a call of `asked` that all have yet to make.
    """
    ours = (
      jax.process_count() == 1
      and threading.current_thread() is threading.main_thread()
    )
    if not ours:
      yield
      return
    before = signal.signal(signal.SIGTERM, self._note)
    try:
      yield
    finally:
      signal.signal(signal.SIGTERM, before)

  def asked(self) -> bool:
    """Whether to save and end here; all processes call it equally often."""
    if jax.process_count() > 1 and not self._asked:
      self._calls += 1
      self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
    return self._asked

  def decide(self, name: str, choose: Callable[[], T]) -> T:
    """As `multihost.decide`, of work during which process 0 asks alone.

    The others wait for it, and count its calls as theirs.

    Args:
      name: of the decision, for error messages.
      choose: see `multihost.decide`; may be broken off.

    Raises:
      InterruptedWorkError: it was broken off; all processes raise it.
    """
    if jax.process_count() == 1:
      return choose()

    def work() -> dict[str, object]:
      try:
        value, broken_off = choose(), False
      except InterruptedWorkError:
        value, broken_off = None, True
      return {"value": value, "calls": self._calls, "broken_off": broken_off}

    told = multihost.decide(name, work)
    self._calls = told["calls"]
    if told["broken_off"]:
      self._asked = True
      raise InterruptedWorkError
    return told["value"]

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._asked = True
