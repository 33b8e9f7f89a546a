"""Interruption points in long work on the host.

Scoring a checkpoint can take an hour, but a preempted machine gives a minute's
notice. Therefore, scoring loops call `point` between iterations, and their
caller decides with `asking` when to interrupt them.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator


class InterruptedWorkError(BaseException):
  """The work was interrupted on request.

  Like `asyncio.CancelledError`, this is not an `Exception`, so that handlers of
  errors do not catch it.
  """


_ASK: contextvars.ContextVar[Callable[[], bool] | None] = (
  contextvars.ContextVar("ask", default=None)
)


@contextlib.contextmanager
def asking(ask: Callable[[], bool]) -> Iterator[None]:
  """Lets `point` interrupt the work inside this context.

  Args:
    ask: returns whether to interrupt; called at each `point`. Work that several
      processes do together must reach `point` equally often on each of them.
  """
  token = _ASK.set(ask)
  try:
    yield
  finally:
    _ASK.reset(token)


def point() -> None:
  """Raises `InterruptedWorkError` if the work must be interrupted."""
  ask = _ASK.get()
  if ask is not None and ask():
    raise InterruptedWorkError
