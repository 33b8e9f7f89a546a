"""Reads on all processes, which fail together."""

from collections.abc import Callable
from typing import TypeVar

from bigscale.parallel import multihost
from bigscale.train import sealed

T = TypeVar("T")


def together(read: Callable[[], T]) -> tuple[T | None, str]:
  """Returns the result of a read, or why it failed on some process.

  All processes return the same reason.
  """
  found, why = None, ""
  try:
    found = read()
  except sealed.SealError as error:
    why = str(error)
  except Exception as error:
    # Reading damaged files can raise any exception.
    why = f"cannot be read ({type(error).__name__}: {_brief(error)})"
  reasons = multihost.gather("damage", [why] if why else [])
  why = multihost.decide("damage", lambda: reasons[0] if reasons else "")
  return (None, why) if why else (found, "")


def _brief(error: Exception) -> str:
  """Returns the first line of a message, at most 200 characters."""
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else ""
