"""Repeats requests that failed for a reason that passes."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from bigscale.place.base import StoreError

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The mean pause before the first repeat, which doubles up to the longest one.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 8.0


def retrying(
  request: Callable[[], T],
  transient: Callable[[Exception], bool],
  patience: float,
  what: str,
) -> T:
  """Returns the result of a request, and repeats it after transient errors.

  Pauses are random, so that many processes do not come back at the same time.

  Args:
    request: the request.
    transient: whether an error may pass.
    patience: seconds from the first failure to the last attempt.
    what: what the request does, for the message.

  Raises:
    StoreError: the request kept failing for `patience` seconds.
    Exception: an error that is not transient.
  """
  pause = _FIRST_PAUSE
  deadline = None
  while True:
    try:
      return request()
    except Exception as error:
      if not transient(error):
        raise
      now = time.monotonic()
      deadline = now + patience if deadline is None else deadline
      wait = random.uniform(0.5, 1.5) * pause
      if now + wait > deadline:
        raise StoreError(
          f"{what} kept failing for {patience:g} seconds "
          f"({describe(error)}); check the network and the state of the store"
        ) from error
      _log.info("%s failed (%s); it is repeated", what, describe(error))
    time.sleep(wait)
    pause = min(2 * pause, _LONGEST_PAUSE)


def describe(error: Exception) -> str:
  """Returns an error as one line; some errors of HTTP have no text."""
  return " ".join(str(error).split()) or type(error).__name__
