"""The error of a run that diverged."""

import math
from collections.abc import Mapping


class DivergedError(RuntimeError):
  """A run diverged, and the monitor could not roll it back.

  Attributes:
    step: step at which the run diverged.
  """

  def __init__(self, step: int, why: str, healthy: int | None = None) -> None:
    """Initializes the error.

    Args:
      step: step at which the run diverged.
      why: reason.
      healthy: step of the newest checkpoint in `healthy/`; None if there is
        none.
    """
    recovery = "the newest checkpoint may be from before the divergence"
    if healthy is not None:
      recovery = f"the newest healthy state is healthy/{healthy}"
    super().__init__(f"diverged at step {step}: {why}; {recovery}")
    self.step = step


def refuse_nonfinite(step: int, row: Mapping[str, float]) -> None:
  """Raises `DivergedError` if a loss is not finite."""
  lost = nonfinite_loss(row)
  if lost:
    raise DivergedError(step, lost)


def nonfinite_loss(row: Mapping[str, float]) -> str:
  """Returns a message about a loss that is not finite, or ""."""
  return next(
    (
      f"{name} is {row[name]}"
      for name in ("d/loss", "g/loss")
      if name in row and not math.isfinite(row[name])
    ),
    "",
  )
