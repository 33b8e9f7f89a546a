"""Follows one column of a trace: its scales, repeats and missing values."""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.monitor.best_so_far import AgainstBest, Scores, SetBacks
from bigscale.monitor.columns import WEIGHTS, Kind
from bigscale.monitor.onset import onset
from bigscale.monitor.scan import (
  COARSE,
  ENOUGH,
  LARGEST,
  ONE,
  SIX,
  TWO,
  Scale,
  Windows,
  median,
  ways,
)

# A column is sparse if its values are at least this many rows apart. Its values
# are probes of the state, and fewer of them are needed as evidence.
_SPARSE = 3
# Relative change between two values, 16 times the resolution of float32, below
# which a value may repeat because it is rounded.
_RESOLUTION = 2.0**-20
# Attributes that are not in the state, or not in this form.
_APART = ("kind", "_floor", "scales", "_jump", "_best", "last", "found")


class Found(NamedTuple):
  """The strongest evidence in a signal.

  Attributes:
    evidence: -ln of the rate per row at which chance alone produces such a
      change in this signal.
    level: dyadic level of the scale that shows it. Its blocks are 2^level rows.
    rises: whether the signal rises.
  """

  evidence: float
  level: int
  rises: bool


class Signal:
  """Follows one column of a trace over all scales.

  Attributes:
    kind: how the column is judged.
    scales: the dyadic scales, the finest first.
    last: newest value; NaN before the first.
    since: step from which on the newest value repeats.
    rows: number of values.
    lost: number of consecutive values up to now that were not finite.
    found: the strongest evidence in this signal.
  """

  def __init__(self, kind: Kind, smallest_rise: float) -> None:
    """Starts without a past.

    Args:
      kind: how the column is judged.
      smallest_rise: smallest relative rise of weights that counts as evidence.
    """
    self.kind = kind
    self._floor = math.log1p(smallest_rise) if kind.group in WEIGHTS else 0.0
    if kind.group == "average":
      # The average's distance to the weights is proportional to their speed,
      # which may double.
      self._floor = max(self._floor, math.log(2))
    self.scales: list[Scale] = []
    # Detects a doubling of G's weights in one row.
    self._jump: Scale | None = None
    if kind.group == "g_weights":
      self._jump = Scale(0, ONE, math.log(2))
    self._recent: deque[float] = deque(maxlen=8)
    self._times: deque[int] = deque(maxlen=2)
    self.last = math.nan
    self.since = 0
    self.rows = 0
    # Number of rows of the trace between the first two values of this column.
    self._gap = 0
    self._seen_at = 0
    # Number of values equal to the one before: in the current series, in the
    # longest earlier series, and in total.
    self._same = self._longest = self._repeats = 0
    self._best: AgainstBest | None = None
    if kind.group == "scores":
      self._best = Scores()
    elif kind.quality:
      self._best = SetBacks()
    # Evidence of being worse than the best value so far.
    self._worse = 0.0
    self.lost = 0
    self.found = Found(0.0, 0, True)

  def cut(self) -> None:
    """Excludes all earlier values from later comparisons."""
    self.found = Found(0.0, 0, True)
    for scale in self.scales:
      scale.cut()
    if self._jump:
      self._jump.cut()
    self._recent.clear()
    self._times.clear()
    if self._best:
      self._best.cut()
    self._same, self._worse = 0, 0.0

  def add(self, value: float, step: int, row: int) -> None:
    """Adds a finite value. A value that repeats the last one counts only once.

    Args:
      value: the column's value.
      step: step of the row.
      row: index of the row in the trace.
    """
    self.lost = 0
    if self.kind.log and value <= 0:
      return
    if self.rows == 1:
      self._gap = row - self._seen_at
    self._seen_at = row
    self.rows += 1
    if value == self.last:
      self._same += 1
      self._repeats += 1
      return
    self._longest, self._same = max(self._longest, self._same), 0
    self.last, self.since = value, step
    x = math.log(value) if self.kind.log else max(-LARGEST, min(value, LARGEST))
    if self._best:
      self._worse = self._best.add(x * self.kind.direction, step, row)
    self._recent.append(x)
    self._times.append(step)
    recent = list(self._recent)
    if self._jump:
      self._jump.add(x, step, recent, self.kind)
    if self.rows == 1:
      # Only the second value shows whether the column is sparse.
      return
    block = x, float(step)
    if not (self._floor or self._gap >= _SPARSE):
      # The median prevents a single row from being evidence.
      block = median(recent[-3:]), float(self._times[0])
    self._add_block(block, recent)
    self.found = self._strongest()

  def _add_block(self, block: tuple[float, float], recent: list[float]) -> None:
    finer: Sequence[float] = recent
    for level in range(len(self.scales) + 1):
      if level == len(self.scales):
        self.scales.append(Scale(level, self._windows(level), self._floor))
      scale = self.scales[level]
      following = scale.add(*block, finer, self.kind)
      if following is None:
        return
      # Increments of the blocks two levels below show how noisy a block is.
      finer = recent if level < 1 else list(self.scales[level - 1].values)
      finer, block = finer[-(8 if level < 1 else 16) :], following

  def _windows(self, level: int) -> Windows:
    if self._floor or self._gap >= _SPARSE:
      return TWO if level < 1 else COARSE
    return SIX if level < 2 else COARSE

  @property
  def judged(self) -> bool:
    """Whether the signal has enough past values to be judged."""
    known = self.scales and self.scales[0].count >= ENOUGH
    return bool(known or (self._best and self._best.judged))

  @property
  def moves(self) -> bool:
    """Whether the signal has changed often enough for a comparison."""
    changed = self.scales and self.scales[0].count
    return bool(changed or (self._best and self._recent))

  def _strongest(self) -> Found:
    """Returns the strongest evidence over all scales and directions."""
    bad = ways(self.kind)
    scales = [*self.scales, *([self._jump] if self._jump else [])]
    tests = max(1, sum(s.count >= ENOUGH for s in scales)) * len(bad)
    found, level, way = max(
      (scale.evidence[way], scale.level, way) for scale in scales for way in bad
    )
    found = Found(max(0.0, found - math.log(tests)), level, way == 0)
    if self._worse > found.evidence:
      return Found(self._worse, 0, self.kind.direction > 0)
    return found

  def onset(self, level: int) -> int:
    """Returns the step at which the change began.

    Args:
      level: dyadic level of the scale whose windows show the change.
    """
    if self._best and self._worse and self._worse >= self.found.evidence:
      # The best value so far shows it: the last step near that value.
      began = self._best.since
    else:
      began = onset(self.scales, level)
    return int(self.since if began is None else began)

  def is_frozen(self, evidence: float) -> bool:
    """Returns whether the value repeats for longer than chance explains.

    Args:
      evidence: -ln of the acceptable rate of false results.
    """
    if not self._same:
      return False
    before = self.rows - self._same
    # Upper estimate of the usual rate of repeats (rule of succession).
    rate = (self._repeats - self._same + 1) / (before + 1)
    return (
      before >= ENOUGH
      and self._is_resolved()
      and self._same > 2 * self._longest + 2
      and -self._same * math.log(min(rate, 1.0)) >= evidence
    )

  def _is_resolved(self) -> bool:
    """Returns whether the last changes were larger than rounding errors.

    At the end of a schedule, weights move less than float32 resolves.
    """
    moves = [abs(a - b) for a, b in itertools.pairwise(self._recent)]
    size = 1.0 if self.kind.log else max(map(abs, self._recent), default=0.0)
    return bool(moves) and median(moves) > _RESOLUTION * size

  def shown(self, level: int) -> tuple[float, float]:
    """Returns the recent and the earlier level, in the column's unit.

    Args:
      level: dyadic level of the scale whose windows are shown.
    """
    pair = self._best.shown() if self._best and self._worse else None
    if pair is not None:
      late, base = (x * self.kind.direction for x in pair)
    else:
      late, base = self.scales[level].levels()
    if not self.kind.log:
      return late, base
    return math.exp(min(late, 700.0)), math.exp(min(base, 700.0))

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    state = {
      name: list(value) if isinstance(value, deque) else value
      for name, value in vars(self).items()
      if name not in _APART
    }
    return state | {
      "_best": self._best and self._best.get_state(),
      "last": None if math.isnan(self.last) else self.last,
      "scales": [scale.get_state() for scale in self.scales],
      "_jump": self._jump and self._jump.get_state(),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned."""
    for name, value in state.items():
      if name in ("_recent", "_times"):
        getattr(self, name).extend(value)
      elif name == "scales":
        self.scales = [Scale.from_state(scale) for scale in value]
      elif name == "_jump":
        self._jump = Scale.from_state(value) if value else None
      elif name == "_best":
        if self._best:
          self._best.set_state(value)
      else:
        setattr(self, name, value)
    self.last = math.nan if state["last"] is None else state["last"]
    self.found = self._strongest() if self.scales else Found(0.0, 0, True)
