"""Follows one column of a trace: its scales, repeats and missing values."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.monitor.best_so_far import AgainstBest, Scores, SetBacks
from bigscale.monitor.columns import WEIGHTS, Kind
from bigscale.monitor.onset import onset
from bigscale.monitor.pace import Pace
from bigscale.monitor.scales import Scales
from bigscale.monitor.scan import ENOUGH, LARGEST

# A column is sparse if its values are at least this many rows apart. Its values
# are probes of the state, and fewer of them are needed as evidence.
_SPARSE = 3
# Relative change between two values, 16 times the resolution of float32, below
# which a value may repeat because it is rounded.
_RESOLUTION = 2.0**-20
# Attributes that are not in the state, or not in this form.
_APART = ("kind", "_floor", "_scales", "_best", "last", "_newest")


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
    last: newest value; NaN before the first.
    since: step from which on the newest value repeats.
    rows: number of values.
    lost: number of consecutive values up to now that were not finite.
  """

  def __init__(self, kind: Kind, smallest_rise: float, scales: Scales) -> None:
    """Starts without a past.

    Args:
      kind: how the column is judged.
      smallest_rise: smallest relative rise of weights that counts as evidence.
      scales: the scales of all columns.
    """
    self.kind = kind
    self._floor = math.log1p(smallest_rise) if kind.group in WEIGHTS else 0.0
    if kind.group == "average":
      # The average's distance to the weights is proportional to their speed,
      # which may double.
      self._floor = max(self._floor, math.log(2))
    self._scales = scales
    # Index of the column among the scales, and a second one that detects a
    # doubling of G's weights in one row.
    self._index: int | None = None
    self._jump: int | None = None
    if kind.group == "g_weights":
      self._jump = scales.new(kind, Pace.JUMP, math.log(2))
    # Newest value as it is compared; NaN before the first and after a cut.
    self._newest = math.nan
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

  def cut(self) -> None:
    """Excludes all earlier values from later comparisons; see `Scales.cut`."""
    self._newest = math.nan
    if self._best:
      self._best.cut()
    self._same, self._worse = 0, 0.0

  def add(self, value: float, step: int, row: int) -> None:
    """Adds a finite value. A value that repeats the last one counts only once.

    The value is compared when the row is complete; see `Scales.add`.

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
    first = self._newest, self.since
    self.last, self.since = value, step
    x = math.log(value) if self.kind.log else max(-LARGEST, min(value, LARGEST))
    if self._best:
      self._worse = self._best.add(x * self.kind.direction, step, row)
    if self._jump is not None:
      self._scales.put(self._jump, x)
    if self.rows > 1:
      if self._index is None:
        # Only the second value shows whether the column is sparse.
        few = self._floor or self._gap >= _SPARSE
        pace = Pace.FEW if few else Pace.MANY
        self._index = self._scales.new(self.kind, pace, self._floor, first)
      self._scales.put(self._index, x)
    self._newest = x

  @property
  def judged(self) -> bool:
    """Whether the signal has enough past values to be judged."""
    return self._count >= ENOUGH or bool(self._best and self._best.judged)

  @property
  def moves(self) -> bool:
    """Whether the signal has changed often enough for a comparison."""
    return self._count > 0 or bool(self._best and not math.isnan(self._newest))

  @property
  def _count(self) -> int:
    if self._index is None:
      return 0
    return self._scales.strongest[self._index][4]

  @property
  def found(self) -> Found:
    """The strongest evidence in this signal."""
    evidence, level, rises, tests = 0.0, 0, True, 0
    if self._index is not None:
      evidence, level, rises, tests, _ = self._scales.strongest[self._index]
    if self._jump is not None:
      jump = self._scales.strongest[self._jump]
      tests += jump[3]
      if jump[0] > evidence:
        evidence, level, rises, _, _ = jump
    if evidence:
      sides = 1 if self.kind.direction else 2
      evidence = max(0.0, evidence - math.log(max(tests, 1) * sides))
    if self._worse > evidence:
      return Found(self._worse, 0, self.kind.direction > 0)
    return Found(evidence, level, rises)

  def onset(self, level: int) -> int:
    """Returns the step at which the change began.

    Args:
      level: dyadic level of the scale whose windows show the change.
    """
    if self._best and self._worse and self._worse >= self.found.evidence:
      # The best value so far shows it: the last step near that value.
      began = self._best.since
    elif self._index is None:
      began = None
    else:
      began = onset(self._scales.scales, self._index, level)
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
    if self._index is None:
      return False
    recent = self._scales.recent[self._index]
    recent = recent[~np.isnan(recent)]
    size = 1.0 if self.kind.log else np.abs(recent).max(initial=0.0)
    moves = np.abs(np.diff(recent))
    return len(moves) > 0 and bool(np.median(moves) > _RESOLUTION * size)

  def shown(self, level: int) -> tuple[float, float]:
    """Returns the recent and the earlier level, in the column's unit.

    Args:
      level: dyadic level of the scale whose windows are shown.
    """
    pair = self._best.shown() if self._best and self._worse else None
    if pair is not None:
      late, base = (x * self.kind.direction for x in pair)
    else:
      late, base = self._scales.levels(self._index, level)
    if not self.kind.log:
      return late, base
    return math.exp(min(late, 700.0)), math.exp(min(base, 700.0))

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    state = {n: x for n, x in vars(self).items() if n not in _APART}
    return state | {
      "_best": self._best and self._best.get_state(),
      "last": None if math.isnan(self.last) else self.last,
      "_newest": None if math.isnan(self._newest) else self._newest,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned."""
    for name, value in state.items():
      if name == "_best":
        if self._best:
          self._best.set_state(value)
      else:
        setattr(self, name, value)
    for name in ("last", "_newest"):
      setattr(self, name, math.nan if state[name] is None else state[name])
