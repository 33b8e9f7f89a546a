"""Follows many signals over all dyadic scales at once."""

import itertools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.monitor.columns import Kind
from bigscale.monitor.pace import Pace
from bigscale.monitor.packed import pack, unpack
from bigscale.monitor.scan import ENOUGH, Scale, push

# Number of values, and of blocks, whose movement shows how noisy a block is.
_RECENT, _FINER = 8, 16


class Scales:
  """All scales of all signals of a trace.

  Attributes:
    scales: the scales, the finest first.
    recent: last values of each signal, NaN where there are none, the newest
      last, [signals, values].
    strongest: strongest evidence of each signal in nats, level of the scale
      that shows it, whether the signal rises, number of scales with enough
      past, and number of past statistics on the finest scale.
  """

  def __init__(self) -> None:
    """Starts without signals."""
    self._kinds: list[tuple[float, bool, bool, bool, Pace]] = []
    self._pending: dict[int, float] = {}
    self._times = np.empty(0)
    self.scales: list[Scale] = []
    self.recent = np.empty((0, _RECENT))
    self.strongest: list[tuple[float, int, bool, int, int]] = []

  def new(
    self,
    kind: Kind,
    pace: Pace,
    floor: float,
    first: tuple[float, float] = (math.nan, math.nan),
  ) -> int:
    """Adds a signal and returns its index.

    Args:
      kind: how the signal is compared.
      pace: how many values show a change.
      floor: smallest rise that counts, in the unit of the values. If it is
        above 0, a rise must also be fast.
      first: a value before the first one that is added, and its step; the
        value is NaN if there is none.
    """
    bad = kind.direction >= 0, kind.direction <= 0
    self._kinds.append((floor, kind.group == "other", *bad, pace))
    past = np.full((1, _RECENT), math.nan)
    past[0, -1] = first[0]
    self.recent = np.concatenate([self.recent, past])
    time = math.nan if math.isnan(first[0]) else first[1]
    self._times = np.append(self._times, time)
    self.strongest.append((0.0, 0, True, 0, 0))
    return len(self._kinds) - 1

  def put(self, signal: int, value: float) -> None:
    """Takes a signal's value in the next row for `add`."""
    self._pending[signal] = value

  def add(self, step: int) -> None:
    """Adds the values of a row.

    Args:
      step: step of the row.
    """
    if not self._pending:
      return
    at = np.array(list(self._pending))
    values = np.array(list(self._pending.values()))
    self._pending = {}
    recent = self.recent[at]
    push(recent, values)
    self.recent[at] = recent
    kinds = np.array(self._kinds, float)[at]
    # The median of three rows prevents a single row from being evidence.
    smooth = kinds[:, -1] == Pace.MANY
    before, steps = self._times[at], float(step)
    self._times[at] = steps
    steps = np.where(smooth & ~np.isnan(before), before, steps)
    values = np.where(smooth, _medians(recent[:, -3:]), values)
    with np.errstate(all="ignore"):
      self._add_blocks(at, np.stack([values, steps], 1), recent, kinds)
    self._find()

  def _add_blocks(
    self,
    at: np.ndarray,
    block: np.ndarray,
    recent: np.ndarray,
    kinds: np.ndarray,
  ) -> None:
    finer = recent
    for level in itertools.count():
      if level == len(self.scales):
        self.scales.append(Scale.new(level))
      self.scales[level].grow(len(self._kinds))
      done, block = self.scales[level].add(at, block, finer, kinds)
      done &= kinds[:, -1] != Pace.JUMP
      if not done.any():
        return
      at, block, kinds, recent = (x[done] for x in (at, block, kinds, recent))
      # Increments of the blocks two levels below show how noisy a block is.
      finer = recent
      if level:
        finer = self.scales[level - 1].own["values"][at, -_FINER:]

  def _find(self) -> None:
    """Finds the strongest evidence over all scales and directions."""
    number = len(self._kinds)
    if not self.scales:
      self.strongest = [(0.0, 0, True, 0, 0)] * number
      return
    evidence = np.zeros((number, len(self.scales), 2))
    known = np.zeros(number, int)
    for level, scale in enumerate(self.scales):
      size = len(scale.rows)
      evidence[:size, level] = scale.own["evidence"]
      known[:size] += scale.own["count"] >= ENOUGH
    count = np.zeros(number, int)
    count[: len(self.scales[0].rows)] = self.scales[0].own["count"]
    flat = evidence.reshape(number, -1)
    # The coarsest of equally strong scales counts.
    best = flat.shape[1] - 1 - flat[:, ::-1].argmax(1)
    found = flat[np.arange(number), best], best // 2, best % 2 == 0
    lists = (x.tolist() for x in (*found, known, count))
    self.strongest = list(zip(*lists, strict=True))

  def levels(self, signal: int, level: int) -> tuple[float, float]:
    """Returns a signal's level in the later and in the earlier window."""
    return self.scales[level].levels(signal, self._kinds[signal][-1])

  def cut(self) -> None:
    """Excludes all earlier values from later comparisons."""
    for scale in self.scales:
      scale.cut()
    self.recent[:] = math.nan
    self._times[:] = math.nan
    self._find()

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    return {
      "kinds": [list(kind) for kind in self._kinds],
      "times": _compress(self._times[:, None]),
      "recent": _compress(self.recent),
      "scales": [_compress(scale.rows) for scale in self.scales],
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned."""
    self._kinds = [(*kind, Pace(pace)) for *kind, pace in state["kinds"]]
    self._times = _expand(state["times"])[:, 0].copy()
    self.recent = _expand(state["recent"])
    self.scales = [
      Scale(level, _expand(rows)) for level, rows in enumerate(state["scales"])
    ]
    self._find()


def _medians(x: np.ndarray) -> np.ndarray:
  """Returns the medians over the last axis, without NaN."""
  ordered = np.sort(x)
  number = (~np.isnan(x)).sum(1)
  row = np.arange(len(x))
  return (ordered[row, (number - 1) // 2] + ordered[row, number // 2]) / 2


def _compress(rows: np.ndarray) -> dict[str, Any]:
  """Returns rows as plain JSON, bit for bit."""
  # Most steps and many other fields are the same in all rows, so columns
  # compress better than rows.
  data = zlib.compress(np.ascontiguousarray(rows.T).tobytes(), 1)
  return {"rows": len(rows), "zlib": pack(np.frombuffer(data, np.uint8))}


def _expand(state: Mapping[str, Any]) -> np.ndarray:
  data = zlib.decompress(unpack(state["zlib"]).tobytes())
  flat = np.frombuffer(data)
  if not state["rows"]:
    return np.empty((0, _RECENT))
  # A copy, because arrays of a buffer are read-only.
  return flat.reshape(-1, state["rows"]).T.copy()
