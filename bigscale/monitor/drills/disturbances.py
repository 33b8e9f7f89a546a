"""Mechanisms by which the drills' faults act on a run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.train.disturb import Disturbance, Step
from bigscale.train.state import GanState
from bigscale.types import Array, Batch

# Strength of a fault by the number of steps since it began.
Course = Callable[[int], float]
# `change(state, key, strength) -> state`, traceable.
Change = Callable[[GanState, Array, Array], GanState]
# `change(rng, images, labels, strength) -> Batch` for numpy [K, B, ...].
ChangeBatch = Callable[
  [np.random.Generator, np.ndarray, np.ndarray, float], Batch
]


def constant(value: float) -> Course:
  """Returns a course with one value."""
  return lambda since: value


def growth(rate: float, limit: float = 1e6) -> Course:
  """Returns a factor that grows by `rate` per step up to a limit."""
  return lambda since: min(limit, (1 + rate) ** (since + 1))


def fade(steps: int, last: float = 0.0) -> Course:
  """Returns a factor that falls linearly from 1 in a number of steps."""
  return ramp(1.0, last, steps)


def ramp(first: float, last: float, steps: int) -> Course:
  """Returns a value that goes linearly from one to another."""
  return lambda since: first + (last - first) * min(1.0, (since + 1) / steps)


@dataclasses.dataclass(frozen=True)
class Tools:
  """Compiled programs that the disturbances of one model share.

  Attributes:
    with_knobs: returns the training step with these knobs (`faulty_step`).
    jitted: compiles a change of the state.
  """

  with_knobs: Callable[[Mapping[str, float]], Step]
  jitted: Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Scene:
  """Parameters of a disturbance in one run.

  Attributes:
    start: first disturbed step.
    seed: seed of the disturbance's random numbers.
    persists: whether the cause outlasts a rollback, like a wrong setting that
      nobody corrects. Otherwise only the first attempt is disturbed.
    tools: programs of the run's model.
  """

  start: int
  seed: int
  persists: bool
  tools: Tools


class Fault(Disturbance):
  """Base class of disturbances that begin at a step."""

  def __init__(self, scene: Scene) -> None:
    self.scene = scene

  def since(self, step: int, attempt: int) -> int | None:
    """Returns the number of disturbed steps before this one; None if usual.

    A cause that persists is present right after a rollback. Its course does not
    advance before the step at which it began.
    """
    if attempt and not self.scene.persists:
      return None
    if step < self.scene.start and not attempt:
      return None
    return max(0, step - self.scene.start)

  def random(self, step: int) -> np.random.Generator:
    """Returns a generator that depends only on the seed and the step."""
    return np.random.default_rng((self.scene.seed, step))


class Knob(Fault):
  """Runs the step with wrong settings (`faulty_step`)."""

  def __init__(self, scene: Scene, courses: Mapping[str, Course]) -> None:
    super().__init__(scene)
    self._courses = courses

  def program(self, step: int, attempt: int, usual: Step) -> Step:
    """See `Disturbance`."""
    since = self.since(step, attempt)
    if since is None:
      return usual
    knobs = {name: course(since) for name, course in self._courses.items()}
    return self.scene.tools.with_knobs(knobs)


class FaultyBatch(Fault):
  """Changes the real images and labels of every step."""

  def __init__(self, scene: Scene, change: ChangeBatch, course: Course) -> None:
    super().__init__(scene)
    self._change = change
    self._course = course

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    since = self.since(step, attempt)
    if since is None:
      return batch
    return self._change(
      self.random(step), batch.images, batch.labels, self._course(since)
    )


class RepeatedBatches(Fault):
  """Repeats the first `count` disturbed batches, like a stuck buffer."""

  def __init__(self, scene: Scene, count: int, images: int | None) -> None:
    """Initializes the fault.

    Args:
      scene: parameters of the disturbance.
      count: number of batches.
      images: number of images of a batch that are used; None for all.
    """
    super().__init__(scene)
    self._count = count
    self._images = images
    self._kept: list[Batch] = []

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if self.since(step, attempt) is None:
      return batch
    if len(self._kept) < self._count:
      rows = np.arange(batch.labels.shape[1]) % (self._images or 1 << 30)
      self._kept.append(Batch(batch.images[:, rows], batch.labels[:, rows]))
    return self._kept[step % len(self._kept)]


class FaultyState(Fault):
  """Changes the state before every disturbed step, or before the first."""

  def __init__(
    self, scene: Scene, change: Change, course: Course, once: bool = False
  ) -> None:
    super().__init__(scene)
    self._change = scene.tools.jitted(change)
    self._course = course
    self._once = once

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """See `Disturbance`."""
    since = self.since(step, attempt)
    if since is None or (self._once and step != self.scene.start):
      return state
    key = jax.random.key(self.scene.seed * 65536 + step)
    return self._change(state, key, jnp.float32(self._course(since)))


class OldState(Fault):
  """Mixes an old state into the present one at a period.

  Attributes:
    PERIOD: number of steps between two copies of the state.
  """

  PERIOD = 40

  def __init__(
    self, scene: Scene, change: Callable[[GanState, GanState], GanState]
  ) -> None:
    super().__init__(scene)
    self._change = scene.tools.jitted(change)
    self._old: GanState | None = None

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """See `Disturbance`."""
    if (step - self.scene.start) % self.PERIOD:
      return state
    old = self._old or jax.tree.map(jnp.copy, state)
    if self.since(step, attempt) is not None:
      state = self._change(state, old)
    # Copied, because the step donates its state.
    self._old = jax.tree.map(jnp.copy, state)
    return state


class DialPulses(Fault):
  """Raises D's learning rate for three steps, three times.

  D's loss spikes and recovers.
  """

  def program(self, step: int, attempt: int, usual: Step) -> Step:
    """See `Disturbance`."""
    since = self.since(step, attempt)
    if since is None or since >= 180 or since % 60 >= 3:
      return usual
    return self.scene.tools.with_knobs({"d_lr": 5.0})
