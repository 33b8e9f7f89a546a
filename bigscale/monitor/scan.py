"""Measures how surprising the last values of signals are, given their own past.

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

All signals of a trace are judged together, in arrays.
"""

import math
from collections.abc import Callable

import numpy as np

from bigscale.monitor.pace import LARGEST_SIZE, Pace, windows_of

# Number of blocks that each scale keeps, for the search for an onset. It is at
# least twice the number of blocks in both windows.
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
_LEAST = -9.0
# A rise and a fall.
_SIGNS = np.array([1.0, -1.0])


def surprise(z: np.ndarray | float, df: np.ndarray | float) -> np.ndarray:
  """Returns -ln P(T > z) of Student's t for z > 1.

  Uses Wallace's normal approximation (1959) and Mills' ratio.

  Args:
    z: statistic in standard deviations.
    df: degrees of freedom.
  """
  w = np.sqrt(df * np.log1p(z * z / df)) * (8 * df + 1) / (8 * df + 3)
  return 0.5 * w * w + np.log(2.5066 * w)


def gain_at(count: np.ndarray | float) -> np.ndarray | float:
  """Returns the weight of a new value in a mean over the past (`_FORGET`)."""
  return (_FORGET + 1) / (count + _FORGET)


# What a scale knows about a signal. Pairs are of rises and falls. Of the fields
# in `_LOST`, nothing is kept across a declared change.
#   values, steps: mean and middle step of the last blocks, the newest last.
#   half: a block that waits for its second half, as mean and step.
#   noises: movement within the last blocks against a rise and against a fall.
#   evidence: evidence of a rise and of a fall at the newest block, in nats.
#   first: step of the first block.
#   count: number of past statistics in the estimates.
#   span, noise, slope, variance: means over the past of the number of steps
#     between the windows, of `noises`, of the growth per step, and of the
#     squared statistic.
#   tops, tops_of: the largest past statistics, in ascending order behind -inf,
#     and the number of statistics that they are the largest of.
#   worst: the largest of the last statistics, for `tops`.
#   range: lowest and highest level so far.
_LOST: dict[str, tuple[tuple[int, ...], float]] = {
  "values": ((KEPT,), math.nan),
  "steps": ((KEPT,), math.nan),
  "half": ((2,), math.nan),
  "noises": ((LARGEST_SIZE + 1, 2), math.nan),
  "evidence": ((2,), 0.0),
}
_FIELDS = _LOST | {
  "first": ((), math.nan),
  "count": ((), 0.0),
  "span": ((), 0.0),
  "noise": ((2,), 0.0),
  "slope": ((2,), 0.0),
  "variance": ((2,), 0.0),
  "tops": ((2, _TOP), -math.inf),
  "tops_of": ((), 0.0),
  "worst": ((2,), _LEAST),
  "lowest": ((), LARGEST),
  "highest": ((), -LARGEST),
}
_RECORD = np.dtype([(n, "f8", shape) for n, (shape, _) in _FIELDS.items()])


def _named(rows: np.ndarray) -> np.ndarray:
  """Returns a view of a scale's rows in which fields have names."""
  return rows.view(_RECORD)[:, 0]


def _new_rows(number: int) -> np.ndarray:
  """Returns the rows of signals without a past."""
  rows = np.empty((number, _RECORD.itemsize // 8))
  for name, (_, value) in _FIELDS.items():
    _named(rows)[name] = value
  return rows


def push(past: np.ndarray, new: np.ndarray | float) -> None:
  """Moves [signals, time, ...] back by one, in place, and adds the newest."""
  past[:, :-1] = past[:, 1:]
  past[:, -1] = new


def _for(
  mask: np.ndarray,
  change: Callable[..., None],
  rows: np.ndarray,
  *others: np.ndarray,
) -> None:
  """Changes, in place, only the rows that a mask selects."""
  if mask.all():
    change(rows, *others)
  elif mask.any():
    some = rows[mask]
    change(some, *(x[mask] for x in others))
    rows[mask] = some


def _middle(x: np.ndarray) -> np.ndarray:
  """Returns the medians over the last axis."""
  ordered, half = np.sort(x), x.shape[-1] // 2
  return (ordered[..., half] + ordered[..., ~half]) / 2


class Scale:
  """Compares the blocks of 2^level rows of many signals.

  Attributes:
    level: dyadic level.
    rows: what is known about each signal, [signals, numbers].
    own: the same memory with names; see `_FIELDS`.
  """

  def __init__(self, level: int, rows: np.ndarray) -> None:
    """Starts from a past.

    Args:
      level: dyadic level.
      rows: row of each signal.
    """
    self.level = level
    self.rows = rows
    self.own = _named(rows)
    # By pace.
    self._windows = [windows_of(pace, level) for pace in Pace]
    self._sizes = np.array([w.last + w.before for w in self._windows])

  @classmethod
  def new(cls, level: int) -> "Scale":
    """Returns a scale without signals."""
    return cls(level, _new_rows(0))

  def grow(self, number: int) -> None:
    """Adds signals without a past, up to a number of signals."""
    if len(self.rows) < number:
      more = _new_rows(number - len(self.rows))
      self.rows = np.concatenate([self.rows, more])
      self.own = _named(self.rows)

  def cut(self) -> None:
    """Drops all blocks, and keeps the estimates of the noise."""
    for name, (_, value) in _LOST.items():
      self.own[name] = value

  def add(
    self,
    at: np.ndarray,
    block: np.ndarray,
    finer: np.ndarray,
    kinds: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Adds a block to some signals.

    Args:
      at: indices of the signals.
      block: mean of each block, and step in its middle, [signals, 2].
      finer: values on a finer scale within the last blocks, the newest last and
        NaN where there are none, [signals, values].
      kinds: smallest rise of each signal, whether its name is unknown, whether
        rises and falls are bad, and its pace, [signals, 5].

    Returns:
      For which of the signals the next scale's block is complete, and mean and
      step of each of these blocks.
    """
    rows = self.rows[at]
    own = _named(rows)
    push(own["values"], block[:, 0])
    push(own["steps"], block[:, 1])
    own["first"] = np.where(np.isnan(own["first"]), block[:, 1], own["first"])
    full = ~np.isnan(own["values"][self._ago(kinds, 1)])
    _for(full, self._judge, rows, finer, kinds)
    done = ~np.isnan(own["half"][:, 0])
    following = (own["half"] + block) / 2
    own["half"] = np.where(done[:, None], math.nan, block)
    self.rows[at] = rows
    return done, following

  def blocks(self, signal: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and steps of a signal's last blocks, the oldest first."""
    own = self.own[signal] if signal < len(self.rows) else None
    if own is None:
      return np.empty(0), np.empty(0)
    known = ~np.isnan(own["values"])
    return own["values"][known], own["steps"][known]

  def levels(self, signal: int, pace: Pace) -> tuple[float, float]:
    """Returns the medians of the later and of the earlier window."""
    last, before, _ = self._windows[pace]
    values = self.blocks(signal)[0][-last - before :]
    earlier = values[:-last] if len(values) > last else values
    return float(_middle(values[-last:])), float(_middle(earlier))

  def _ago(
    self, kinds: np.ndarray, windows: int, more: int = 0
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index of the block some pairs of windows ago."""
    sizes = self._sizes[kinds[:, -1].astype(int)]
    return np.arange(len(kinds)), -windows * sizes - more

  def _compare(
    self, own: np.ndarray, kinds: np.ndarray, ago: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares the windows that ended a number of pairs of windows ago.

    Args:
      own: named rows.
      kinds: how each signal is compared.
      ago: number of pairs of windows.

    Returns:
      Rise and fall, [signals, 2], number of steps between the windows, and
      level of the earlier window, [signals].
    """
    moved = np.empty((len(own), 2))
    span, base = np.empty((2, len(own)))
    for pace, (last, before, rank) in enumerate(self._windows):
      at = np.flatnonzero(kinds[:, -1] == pace)
      if not len(at):
        continue
      size = last + before
      end = KEPT - ago * size
      values = own["values"][at, end - size : end]
      base[at] = middle = _middle(values[:, :-last])
      if rank is None:
        late = _middle(values[:, -last:])[:, None]
      else:
        late = np.sort(values[:, -last:])[:, [rank, ~rank]]
      moved[at] = (late - middle[:, None]) * _SIGNS
      steps = own["steps"][at, end - size : end]
      ends = steps[:, -1] + steps[:, -last] - steps[:, -last - 1] - steps[:, 0]
      span[at] = ends / 2
    return moved, span, base

  def _judge(
    self, rows: np.ndarray, finer: np.ndarray, kinds: np.ndarray
  ) -> None:
    own = _named(rows)
    steps = (finer[:, :-1] - finer[:, 1:])[..., None] * _SIGNS
    push(own["noises"], np.fmax(steps, 0.0).sum(1))
    own["evidence"] = 0.0
    _for(own["count"] >= ENOUGH, self._weigh, rows, kinds)
    # A statistic updates the estimates only after it has left the windows.
    left = ~np.isnan(own["values"][self._ago(kinds, 2)])
    _for(left, self._learn, rows, kinds)

  def _weigh(self, rows: np.ndarray, kinds: np.ndarray) -> None:
    own = _named(rows)
    moved, span, _ = self._compare(own, kinds, 0)
    # A random walk moves further across a gap between rows.
    further = np.maximum(1.0, span / own["span"])
    spread = np.sqrt(own["variance"] * further[:, None])
    # A trend that continues or slows down is not evidence.
    excess = moved - np.maximum(0.0, own["slope"] * span[:, None])
    shown = (kinds[:, 2:4] > 0) & (spread > 0) & (excess > 2 * spread)
    if not shown.any():
      return
    floor, other = kinds[:, 0], kinds[:, 1]
    time = own["steps"][:, -1] - own["first"]
    pace = np.maximum(floor, math.log(2) * span / (_DOUBLING * time))
    # Only its own range shows whether a change of an unknown column is large.
    large = other * _PART_OF_RANGE * (own["highest"] - own["lowest"])
    # Noise also moves the signal against the change, and a collapse does not.
    # The excess is divided by the ratio of this movement to its usual size.
    usual = np.maximum(own["noise"], 0.1 * own["noise"].sum(1)[:, None])
    noise = own["noises"][:, -1] / np.maximum(usual, _TINY)
    z = np.minimum(excess / spread / np.maximum(1.0, noise), 1e6)
    shown &= (excess > np.where(floor > 0, pace, large)[:, None]) & (z > 2)
    if not shown.any():
      return
    found = surprise(z[shown], _DF * own["count"][shown.nonzero()[0]])
    tops = own["tops"][shown]
    number = np.isfinite(tops).sum(1)
    top = np.maximum(tops, 0.0) ** 2
    least = top[np.arange(len(top)), np.minimum(_TOP - number, _TOP - 1)]
    excesses = top.sum(1) / np.maximum(number, 1) - least
    tail = np.maximum(0.0, z[shown] ** 2 - least)
    tail /= np.maximum(_TAIL * excesses, 1e-9)
    rate = own["tops_of"][shown.nonzero()[0]] / np.maximum(number, 1)
    tail += np.log(np.maximum(rate, 1.0)) + math.log(4)
    found = np.where(number >= _TOP // 2, np.minimum(found, tail), found)
    # A scale is tested once per 2^level rows, so its rate per row is lower.
    own["evidence"][shown] = found + self.level * math.log(2)

  def _learn(self, rows: np.ndarray, kinds: np.ndarray) -> None:
    own = _named(rows)
    moved, span, base = self._compare(own, kinds, 1)
    own["count"] += 1
    own["lowest"] = np.minimum(own["lowest"], base)
    own["highest"] = np.maximum(own["highest"], base)
    gain = gain_at(own["count"])
    own["span"] += gain * (span - own["span"])
    gain, span = gain[:, None], span[:, None]
    own["noise"] += gain * (
      own["noises"][self._ago(kinds, 1, 1)] - own["noise"]
    )
    rest = moved - own["slope"] * span
    spread = np.sqrt(own["variance"])
    enough = own["count"] > ENOUGH // 2
    known = enough[:, None] & (spread > 0)
    z = np.where(known & (kinds[:, 2:4] > 0), rest / spread, _LEAST)
    own["worst"] = np.maximum(own["worst"], np.minimum(z, 1e6))
    limit = np.where(known, CLIP * spread, math.inf)
    rest = np.clip(rest, -limit, limit)
    own["slope"] += gain * rest / np.maximum(span, _TINY)
    own["variance"] += gain * (rest * rest - own["variance"])
    _for(enough & (own["count"] % _OVERLAP == 0), self._learn_tail, rows)

  def _learn_tail(self, rows: np.ndarray) -> None:
    """Adds the largest of the last `_OVERLAP` statistics to the tail."""
    own = _named(rows)
    tops = np.concatenate([own["tops"], own["worst"][..., None]], -1)
    tops = np.sort(tops)[..., 1:]
    # Every time `count` has doubled, every other statistic is dropped.
    count = own["count"].astype(int)
    forget = (count >= 8 * _TOP) & (count & (count - 1) == 0)
    half = np.full_like(tops, -math.inf)
    half[..., _TOP // 2 :] = tops[..., ::2]
    own["tops"] = np.where(forget[:, None, None], half, tops)
    own["tops_of"] = (own["tops_of"] + 1) / np.where(forget, 2, 1)
    own["worst"] = _LEAST
