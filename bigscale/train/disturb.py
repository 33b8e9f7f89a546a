"""What drills and tests do to a run from outside, to see how it copes."""

from collections.abc import Callable

from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.types import Batch

Step = Callable[..., tuple[GanState, Scalars]]


class Disturbance:
  """Nothing. Subclasses change what a step is given.

  `step` counts from 1; `attempt` rises at each rollback.
  """

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """What the step reads, numpy arrays [K, rows, ...] of this process."""
    del step, attempt
    return batch

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """The state before the step; a changed leaf keeps shape and sharding."""
    del step, attempt
    return state

  def program(self, step: int, attempt: int, usual: Step) -> Step:
    """What computes the step."""
    del step, attempt
    return usual
