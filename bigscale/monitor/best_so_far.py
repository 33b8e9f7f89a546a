"""Compares a measure of the samples' quality with its best value so far.

In a healthy run such a measure improves, or stays near its best value. The
comparison of two windows (`monitor/scan`) is nearly blind to it: the fast
improvement at the start makes its own past look noisy.
"""

import itertools
import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Protocol

from bigscale.monitor.scan import CLIP, gain_at, surprise

# Number of values before a score is judged.
_ENOUGH_SCORES = 6
# Number of past values before a measure is judged, and from which on outliers
# are clipped before they are learned.
_ENOUGH = 12
# A value is learned this many values later.
_LAG = 4
# Degrees of freedom per past value. Consecutive values resemble each other.
_DF = 1 / 3
# Maximum set-back of a measure that is near its best, in its usual sizes.
_NEAR = 2.0
# Smallest set-back that counts: the measure is 1.5 times its best.
_SMALLEST = math.log(1.5)


class AgainstBest(Protocol):
  """Evidence that a measure is worse than its best. Small values are good."""

  def add(self, bad: float, step: int, row: int) -> float:
    """Adds a value; returns -ln of the rate per row of chance.

    Args:
      bad: the value.
      step: step of the row.
      row: index of the row in the trace.
    """
    ...

  @property
  def since(self) -> int | None:
    """Last step at which the measure was near its best; None if unknown."""
    ...

  @property
  def judged(self) -> bool:
    """Whether there are enough values."""
    ...

  def shown(self) -> tuple[float, float] | None:
    """Returns the last and the best value; None if there are too few."""
    ...

  def cut(self) -> None:
    """Excludes all earlier values from later comparisons."""
    ...

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    ...

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state."""
    ...


class Scores:
  """Compares the last two of few scores with the best median of three before.

  An evaluation takes minutes, so a run has tens of scores.
  """

  def __init__(self) -> None:
    self._values: list[float] = []

  def add(self, bad: float, step: int, row: int) -> float:
    """See `AgainstBest`."""
    del step
    self._values.append(bad)
    earlier = self._values[:-2]
    if len(earlier) < _ENOUGH_SCORES - 1:
      return 0.0
    # The median ignores the fast improvement of early scores. For differences
    # of independent normal values, it is 0.95 standard deviations.
    moves = [abs(a - b) for a, b in itertools.pairwise(earlier)]
    noise = max(median(moves) / 0.95, 1e-12)
    best = min(median(earlier[i : i + 3]) for i in range(len(earlier) - 2))
    z = (min(self._values[-2:]) - best) / noise
    if z <= 2:
      return 0.0
    # A score is tested once in many rows, so its rate per row is lower.
    rare = math.log(max(row / len(self._values), 1.0))
    return float(surprise(z, len(earlier) - 1)) + rare

  @property
  def since(self) -> int | None:
    """See `AgainstBest`."""
    return None

  @property
  def judged(self) -> bool:
    """See `AgainstBest`."""
    return len(self._values) > _ENOUGH_SCORES

  def shown(self) -> tuple[float, float] | None:
    """See `AgainstBest`."""
    if len(self._values) <= 2:
      return None
    return self._values[-1], min(self._values[:-2])

  def cut(self) -> None:
    """See `AgainstBest`."""
    self._values.clear()

  def get_state(self) -> dict[str, Any]:
    """See `AgainstBest`."""
    return {"values": list(self._values)}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """See `AgainstBest`."""
    self._values = list(state["values"])


class SetBacks:
  """Compares a measure of every probe with the best one so far.

  The set-back is the smaller one of the last two values minus the best median
  of three before them. Its usual size, as a root mean square over the past with
  larger weights for recent values, contains how far a healthy run wanders. The
  values are logarithms, and a set-back counts from a factor of 1.5 on.
  """

  def __init__(self) -> None:
    self._recent: deque[float] = deque(maxlen=5)
    self._best = math.inf
    self._near: int | None = None
    self._pending: deque[list[float]] = deque()
    self._count = 0
    # Mean squares of set-backs and of differences between consecutive values.
    self._squares = [0.0, 0.0]

  def add(self, bad: float, step: int, row: int) -> float:
    """See `AgainstBest`."""
    del row
    move = bad - self._recent[-1] if self._recent else 0.0
    self._recent.append(bad)
    values = list(self._recent)
    if len(values) == self._recent.maxlen:
      self._best = min(self._best, median(values[:3]))
    back = 0.0
    if math.isfinite(self._best):
      back = max(0.0, min(values[-2:]) - self._best)
    spread = math.sqrt(sum(self._squares))
    if back <= _NEAR * spread:
      self._near = step
    found = self._weigh(back, spread)
    self._pending.append([back, move])
    if len(self._pending) > _LAG:
      self._learn(self._pending.popleft())
    return found

  def _weigh(self, back: float, spread: float) -> float:
    if not self.judged or back < _SMALLEST or spread <= 0:
      return 0.0
    z = min(back / spread, 1e6)
    return float(surprise(z, _DF * self._count)) if z > _NEAR else 0.0

  def _learn(self, sizes: list[float]) -> None:
    self._count += 1
    limit = math.inf
    if self._count > _ENOUGH:
      # A set-back that lasts does not become usual at once.
      limit = CLIP * math.sqrt(sum(self._squares))
    for i, size in enumerate(sizes):
      square = min(abs(size), limit) ** 2
      self._squares[i] += gain_at(self._count) * (square - self._squares[i])

  @property
  def since(self) -> int | None:
    """See `AgainstBest`."""
    return self._near

  @property
  def judged(self) -> bool:
    """See `AgainstBest`."""
    return self._count >= _ENOUGH

  def shown(self) -> tuple[float, float] | None:
    """See `AgainstBest`."""
    if not math.isfinite(self._best):
      return None
    return self._recent[-1], self._best

  def cut(self) -> None:
    """See `AgainstBest`."""
    self._recent.clear()
    self._pending.clear()
    self._best, self._near = math.inf, None

  def get_state(self) -> dict[str, Any]:
    """See `AgainstBest`."""
    return {
      "recent": list(self._recent),
      "best": self._best if math.isfinite(self._best) else None,
      "near": self._near,
      "pending": [list(sizes) for sizes in self._pending],
      "count": self._count,
      "squares": list(self._squares),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """See `AgainstBest`."""
    self._recent.extend(state["recent"])
    self._best = math.inf if state["best"] is None else state["best"]
    self._near = state["near"]
    self._pending.extend(list(sizes) for sizes in state["pending"])
    self._count = state["count"]
    self._squares = list(state["squares"])
