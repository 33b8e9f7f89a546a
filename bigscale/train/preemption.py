"""SIGTERM: the machine is wanted back, and the run may save itself first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


class PreemptedError(RuntimeError):
  """The run was asked to end, has saved itself, and wants to be resumed."""


class Preemption:
  """Whether the run was asked to end."""

  def __init__(self) -> None:
    self._asked = False

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Notices SIGTERM while it is open, where this is the main thread.

    With several processes JAX's own service listens: it tells all of them of a
    signal to any, and names a step that all have yet to reach.
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

  def asked(self, step: int) -> bool:
    """Whether to save and end after this step; to be called at every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._asked = True
