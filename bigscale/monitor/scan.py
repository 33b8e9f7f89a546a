"""Measures how surprising the last values of a signal are, given its own past.

A signal is averaged into blocks of 1, 2, 4, ... rows. On each of these scales
the statistic is the level of the last blocks minus the level of the blocks
before them (a two-window scan, as in TWIN, arXiv:2510.11348). Earlier
values of the statistic in the same run show how far chance moves it. Therefore
white noise, autocorrelated noise and random walks need no models of their own,
and a change that has left both windows is the new normal.

Evidence is -ln of the rate per row at which chance alone produces a statistic
as large. Two tails are estimated, and the weaker evidence counts:
  - Student's t. Its degrees of freedom follow from the number of past windows,
    so coarse scales, which have few windows, are cautious.
  - An exponential tail of the squared statistic through its largest past values
    (peaks over threshold, as in SPOT, Siffer et al. 2017).
"""

import array
import base64
import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.monitor.columns import Kind

# Number of blocks that each scale keeps, for the search for an onset.
KEPT = 40
# Minimum number of past values of a statistic before it counts as evidence.
# With fewer, Student's t alone would have fewer than 3 degrees of freedom.
ENOUGH = 24
# Consecutive statistics have overlapping windows. The tail takes only the
# largest of this many.
_OVERLAP = 4
# Degrees of freedom per past statistic. Windows overlap, so three statistics
# carry the information of one. The weights of `_FORGET` leave 5 / 9 of it.
_DF = 0.55 / 3
# Number of largest past statistics that the tail is fitted to, and the factor
# by which the fitted tail is lengthened.
_TOP, _TAIL = 16, 1.4
# The past at time s has the weight (s / now) ** _FORGET.
_FORGET = 2
# Number of standard deviations to which a statistic is clipped before it
# updates the estimates.
CLIP = 4.0
# A rise of weights counts only if it is fast enough to double them within this
# fraction of the run so far.
_DOUBLING = 0.1
# A change of an unknown column counts only if it exceeds this fraction of the
# column's range so far.
_PART_OF_RANGE = 0.5
# Magnitude to which values are clipped, so that sums of squares stay finite.
LARGEST = 1e99
_TINY = 1e-300


def surprise(z: float, df: float) -> float:
  """Returns -ln P(T > z) of Student's t for z > 1.

  Uses Wallace's normal approximation (1959) and Mills' ratio.

  Args:
    z: statistic in standard deviations.
    df: degrees of freedom.
  """
  w = math.sqrt(df * math.log1p(z * z / df)) * (8 * df + 1) / (8 * df + 3)
  return 0.5 * w * w + math.log(2.5066 * w)


def gain_at(count: int) -> float:
  """Returns the weight of a new value in a mean over the past (`_FORGET`)."""
  return (_FORGET + 1) / (count + _FORGET)


def median(values: Sequence[float]) -> float:
  """Returns the median of a nonempty sequence."""
  ordered, half = sorted(values), len(values) // 2
  return (ordered[half] + ordered[~half]) / 2


class Windows(NamedTuple):
  """The two windows that a scale compares.

  Attributes:
    last: number of blocks in the later window.
    before: number of blocks in the earlier window. Their median is compared.
    rank: which of the later window's sorted blocks is compared. 0 requires all
      blocks to have moved, 1 all but one. None compares their median.
  """

  last: int
  before: int
  rank: int | None


# Two rows are enough to show a rise of weights, and one row to show a doubling.
# Losses and gradients spike, so 5 of 6 blocks must agree.
ONE, TWO = Windows(1, 4, 0), Windows(2, 4, 0)
SIX, COARSE = Windows(6, 8, 1), Windows(4, 8, None)


class Scale:
  """Compares the blocks of 2^level rows of one signal.

  Attributes:
    level: dyadic level.
    values: means of the last blocks, the oldest first.
    steps: step in the middle of each block.
    count: number of past statistics in the estimates.
    evidence: evidence of a rise and of a fall at the newest block, in nats.
  """

  def __init__(self, level: int, windows: Windows, floor: float) -> None:
    """Starts without a past.

    Args:
      level: dyadic level.
      windows: the windows to compare.
      floor: smallest rise that counts, in the unit of the blocks. If it is
        above 0, a rise must also be as fast as `_DOUBLING` requires.
    """
    self.level = level
    self._windows = windows
    self._floor = floor
    self._first: float | None = None
    self.count = 0
    # Means over the past: number of steps between the windows, and for each
    # direction the movement within the blocks, the growth per step and the
    # variance of the statistic.
    self._span = 0.0
    self._moves = [0.0, 0.0]
    self._slope = [0.0, 0.0]
    self._variance = [0.0, 0.0]
    # The largest past statistics of each direction, in ascending order.
    self._tops: tuple[list[float], list[float]] = ([], [])
    self._tops_of = 0.0
    self._worst = [-9.0, -9.0]
    # Lowest and highest level so far.
    self._range = [LARGEST, -LARGEST]
    self.cut()

  def cut(self) -> None:
    """Drops all blocks, and keeps the estimates of the noise."""
    self.values: deque[float] = deque(maxlen=KEPT)
    self.steps: deque[float] = deque(maxlen=KEPT)
    self._half: tuple[float, float] | None = None
    self._pending: deque[tuple[list[float], float, list[float], float]] = (
      deque()
    )
    self.evidence = [0.0, 0.0]

  def add(
    self, value: float, step: float, finer: Sequence[float], kind: Kind
  ) -> tuple[float, float] | None:
    """Adds a block.

    Args:
      value: mean of the block.
      step: step in the middle of the block.
      finer: values on a finer scale within the last blocks, the oldest first.
      kind: how the signal is compared.

    Returns:
      Mean and step of the next scale's block if this block completes it; None
      otherwise.
    """
    self.values.append(value)
    self.steps.append(step)
    self._first = step if self._first is None else self._first
    if len(self.values) >= self._windows.last + self._windows.before:
      self._judge(finer, kind)
    one = self._half
    self._half = None if one else (value, step)
    return one and ((one[0] + value) / 2, (one[1] + step) / 2)

  def levels(self) -> tuple[float, float]:
    """Returns the medians of the later and of the earlier window."""
    last, before, _ = self._windows
    values = list(self.values)[-last - before :]
    earlier = values[:-last] or values
    return median(values[-last:]), median(earlier)

  def _judge(self, finer: Sequence[float], kind: Kind) -> None:
    last, before, rank = self._windows
    values, steps = list(self.values)[-last - before :], self.steps
    base, late = median(values[:before]), sorted(values[before:])
    if rank is None:
      rise = median(late) - base
      moved = [rise, -rise]
    else:
      moved = [late[rank] - base, base - late[~rank]]
    span = steps[-1] + steps[-last] - steps[-last - 1] - steps[-last - before]
    span /= 2
    moves = [0.0, 0.0]
    for earlier, later in itertools.pairwise(finer):
      moves[later > earlier] += abs(later - earlier)
    self.evidence = [0.0, 0.0]
    if self.count >= ENOUGH:
      for way in ways(kind):
        self.evidence[way] = self._weigh(moved[way], way, span, moves, kind)
    # A statistic updates the estimates only after it has left the windows.
    self._pending.append((moved, span, moves, base))
    if len(self._pending) > last + before:
      self._learn(*self._pending.popleft(), ways(kind))

  def _weigh(
    self,
    moved: float,
    way: int,
    span: float,
    moves: Sequence[float],
    kind: Kind,
  ) -> float:
    # A random walk moves further across a gap between rows.
    spread = math.sqrt(self._variance[way] * max(1.0, span / self._span))
    # A trend that continues or slows down is not evidence.
    excess = moved - max(0.0, self._slope[way] * span)
    needed = 0.0
    if self._floor:
      pace = math.log(2) * span / (_DOUBLING * (self.steps[-1] - self._first))
      needed = max(self._floor, pace)
    elif kind.group == "other":
      # Only its own range shows whether a change of an unknown column is large.
      needed = _PART_OF_RANGE * (self._range[1] - self._range[0])
    if spread <= 0 or excess <= max(2 * spread, needed):
      return 0.0
    # Noise also moves the signal against the change, and a collapse does not.
    # The excess is divided by the ratio of this movement to its usual size.
    usual = max(self._moves[way], 0.1 * sum(self._moves), _TINY)
    z = min(excess / spread / max(1.0, moves[way] / usual), 1e6)
    if z <= 2:
      return 0.0
    found = surprise(z, _DF * self.count)
    top = [max(t, 0.0) ** 2 for t in self._tops[way]]
    if len(top) >= _TOP // 2:
      excesses = sum(top) / len(top) - top[0]
      tail = max(0.0, z * z - top[0]) / max(_TAIL * excesses, 1e-9)
      rate = max(self._tops_of / len(top), 1.0)
      found = min(found, tail + math.log(rate) + math.log(4))
    # A scale is tested once per 2^level rows, so its rate per row is lower.
    return found + self.level * math.log(2)

  def _learn(
    self,
    moved: Sequence[float],
    span: float,
    moves: Sequence[float],
    base: float,
    ways: Sequence[int],
  ) -> None:
    self.count += 1
    self._range = [min(self._range[0], base), max(self._range[1], base)]
    gain = gain_at(self.count)
    self._span += gain * (span - self._span)
    self._moves = [
      m + gain * (n - m) for m, n in zip(self._moves, moves, strict=True)
    ]
    for way in ways:
      rest = moved[way] - self._slope[way] * span
      spread = math.sqrt(self._variance[way])
      if self.count > ENOUGH // 2 and spread > 0:
        self._worst[way] = max(self._worst[way], min(rest / spread, 1e6))
        rest = min(max(rest, -CLIP * spread), CLIP * spread)
      self._slope[way] += gain * rest / max(span, _TINY)
      self._variance[way] += gain * (rest * rest - self._variance[way])
    if self.count > ENOUGH // 2 and self.count % _OVERLAP == 0:
      self._learn_tail(ways)

  def _learn_tail(self, ways: Sequence[int]) -> None:
    """Adds the largest of the last `_OVERLAP` statistics to the tail."""
    # Every time `count` has doubled, every other statistic is dropped.
    forget = self.count >= 8 * _TOP and not self.count & (self.count - 1)
    self._tops_of = (self._tops_of + 1) / (2 if forget else 1)
    for way in ways:
      bisect.insort(self._tops[way], self._worst[way])
      kept = self._tops[way][-_TOP:]
      self._tops[way][:] = kept[:: 2 if forget else 1]
    self._worst = [-9.0, -9.0]

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON. Long lists are packed."""
    state = {k: v for k, v in vars(self).items() if k != "_windows"}
    pending = [
      [*moved, span, *moves, base] for moved, span, moves, base in self._pending
    ]
    return {
      name: list(value) if isinstance(value, (deque, list, tuple)) else value
      for name, value in state.items()
    } | {
      "_windows": list(self._windows),
      "_tops": [_pack(top) for top in self._tops],
      "values": _pack(self.values),
      "steps": _pack(self.steps),
      "_pending": _pack(itertools.chain.from_iterable(pending)),
    }

  @classmethod
  def from_state(cls, state: Mapping[str, Any]) -> "Scale":
    """Returns a scale with a state from `get_state`."""
    scale = cls(state["level"], Windows(*state["_windows"]), state["_floor"])
    for name in ("_first", "count", "_span", "_tops_of"):
      setattr(scale, name, state[name])
    for name in (
      *("_moves", "_slope", "_variance", "_worst", "_range", "evidence"),
    ):
      setattr(scale, name, list(state[name]))
    scale._tops = tuple(_unpack(top) for top in state["_tops"])
    scale.values.extend(_unpack(state["values"]))
    scale.steps.extend(_unpack(state["steps"]))
    scale._half = tuple(state["_half"]) if state["_half"] else None
    pending = _unpack(state["_pending"])
    scale._pending.extend(
      (
        pending[i : i + 2],
        pending[i + 2],
        pending[i + 3 : i + 5],
        pending[i + 5],
      )
      for i in range(0, len(pending), 6)
    )
    return scale


def _pack(values: Iterable[float]) -> str:
  """Returns numbers as text, bit for bit; much faster to parse than JSON's."""
  return base64.b64encode(array.array("d", values).tobytes()).decode()


def _unpack(packed: str) -> list[float]:
  return array.array("d", base64.b64decode(packed)).tolist()


def ways(kind: Kind) -> tuple[int, ...]:
  """Returns the bad directions: 0 for rises, 1 for falls."""
  return {1: (0,), -1: (1,), 0: (0, 1)}[kind.direction]
