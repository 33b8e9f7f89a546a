"""Fault injection for drills and tests."""

from collections.abc import Callable

from bigscale.train.state import GanState
from bigscale.train.step import Scalars
from bigscale.types import Batch

Step = Callable[..., tuple[GanState, Scalars]]


class Disturbance:
  """Changes nothing; subclasses replace the inputs or the program of a step.

  `step` counts from 1, and `attempt` increases by 1 at each rollback.
  """

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """Returns the step's batch, numpy [K, rows, ...] of this process."""
    del step, attempt
    return batch

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """Returns the state before the step, with equal shapes and shardings."""
    del step, attempt
    return state

  def program(self, step: int, attempt: int, usual: Step) -> Step:
    """Returns the function that computes the step."""
    del step, attempt
    return usual
