"""Where long work on the host may be broken off.

To score a checkpoint may take an hour, and a machine that is wanted back gives
a minute. So loops of scoring ask between two pieces of work whether to go on,
and whoever calls them says what is asked.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator


class InterruptedWorkError(BaseException):
  """The work was broken off on request, and has not failed.

  Like `asyncio.CancelledError` it is no `Exception`: who answers for errors of
  the work must not take it for one.
  """


_ASK: contextvars.ContextVar[Callable[[], bool] | None] = (
  contextvars.ContextVar("ask", default=None)
)


@contextlib.contextmanager
def asking(ask: Callable[[], bool]) -> Iterator[None]:
  """Lets `point` break off the work in here.

  Args:
    ask: whether to break off. With several processes it is called as often as
      the work comes to a `point`: work that all do together must come to as
      many on each of them.
  """
  token = _ASK.set(ask)
  try:
    yield
  finally:
    _ASK.reset(token)


def point() -> None:
  """Raises `InterruptedWorkError` where the work is to be broken off here."""
  ask = _ASK.get()
  if ask is not None and ask():
    raise InterruptedWorkError
