"""Follows a column whose values are evidence by themselves."""

import math
from collections.abc import Mapping
from typing import Any

from bigscale.monitor.column_signal import Found, Signal
from bigscale.monitor.columns import SLIGHT, Kind
from bigscale.monitor.scales import Scales

# Evidence below which a value is considered normal: once in 100 rows.
_NORMAL = math.log(100)
# Evidence ends after this many times the usual number of rows without a value,
# for example because the run was started again without an anchor.
_MISSING = 3
# Number of rows between values that is assumed before the second value.
_GAP = 100


class KnownSignal(Signal):
  """A column of evidence in nats, from a comparison with a fixed reference.

  It needs no past, and is judged during the warm-up as well.
  """

  def __init__(self, kind: Kind, smallest_shift: float, scales: Scales) -> None:
    """Starts without evidence.

    Args:
      kind: how the column is judged.
      smallest_shift: smallest material size. Evidence of a smaller change
        belongs to the group `slight`.
      scales: the scales of all columns, which this one does not use.
    """
    super().__init__(kind, 0.0, scales)
    self._found = Found(0.0, 0, True)
    self._kinds = kind, kind._replace(group=SLIGHT)
    self._smallest = smallest_shift
    self._size = math.nan
    self._gap = _GAP
    # Step of the newest normal value.
    self._normal = 0

  @property
  def size(self) -> float:
    """Size of the change that the newest value is evidence for."""
    return self._size

  @size.setter
  def size(self, size: float) -> None:
    self._size = size
    self.kind = self._kinds[size < self._smallest]

  def cut(self) -> None:
    """Does nothing: the values are not compared with each other."""

  def add(self, value: float, step: int, row: int) -> None:
    """Takes a value; see `Signal.add`."""
    if self.rows:
      self._gap = row - self._seen_at
    self._seen_at = row
    self.lost = 0
    if self.rows == 0 or value < _NORMAL:
      # The change began after the normal value before this one. Repeated
      # images, for example, are normal when they are first seen.
      self.since, self._normal = self._normal if self.rows else step, step
    self.rows += 1
    self.last = value
    self._found = Found(max(value, 0.0), 0, True)

  def expire(self, row: int) -> None:
    """Forgets the evidence if there has been no value for long.

    Args:
      row: index of the present row in the trace.
    """
    if row - self._seen_at > _MISSING * self._gap:
      self._found = Found(0.0, 0, True)

  @property
  def found(self) -> Found:
    """The evidence of the newest value."""
    return self._found

  @property
  def judged(self) -> bool:
    """Whether there is a value."""
    return self.rows > 0

  @property
  def moves(self) -> bool:
    """Whether there is a value."""
    return self.rows > 0

  def is_frozen(self, evidence: float) -> bool:
    """Returns False: evidence may stay at zero."""
    del evidence
    return False

  def shown(self, level: int) -> tuple[float, float]:
    """Returns the size of the change, and that of no change."""
    del level
    return self.size, 0.0

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    size = None if math.isnan(self._size) else self._size
    return {
      "rows": self.rows,
      "since": self.since,
      "normal": self._normal,
      "seen_at": self._seen_at,
      "gap": self._gap,
      "last": self._found.evidence,
      "size": size,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned."""
    self.rows, self.since = state["rows"], state["since"]
    self._normal, self.last = state["normal"], state["last"]
    self._seen_at, self._gap = state["seen_at"], state["gap"]
    self.size = math.nan if state["size"] is None else state["size"]
    self._found = Found(state["last"], 0, True)
