"""Where a stream stands: how much it has consumed, and what it left out."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bigscale.data.manifest import DataError


@dataclasses.dataclass(frozen=True)
class Position:
  """Of a stream, over all processes.

  Attributes:
    consumed: records that were used.
    skipped: ranges [start, end) of places that no record is taken from; they
      are sorted and do not touch.
  """

  END: ClassVar[int] = 1 << 62  # Places stay below it, and so fit int64.

  consumed: int = 0
  skipped: tuple[tuple[int, int], ...] = ()

  def of(self, consumed: np.ndarray) -> np.ndarray:
    """Places of the records that come after so many others: [N] int64."""
    consumed = np.asarray(consumed, np.int64)
    if not self.skipped:
      return consumed
    starts, ends = np.array(self.skipped, np.int64).T
    lengths = np.cumsum(ends - starts)
    # How many are used before each range.
    before = starts - np.concatenate([[0], lengths[:-1]])
    passed = np.searchsorted(before, consumed, side="right")
    return consumed + np.concatenate([[0], lengths])[passed]

  def after(self, records: int) -> "Position":
    """The position so many records on."""
    return dataclasses.replace(self, consumed=self.consumed + records)

  def next_range(self, records: int) -> tuple[int, int]:
    """Places of the next records, from the first to behind the last."""
    if records < 1:
      raise DataError(f"a skip of {records} records must be of 1 or more")
    first, last = self.of(
      np.array([self.consumed, self.consumed + records - 1])
    ).tolist()
    return first, last + 1

  def without(self, start: int, end: int) -> "Position":
    """The same position, with places [start, end) left out from now on."""
    ranges = sorted([*self.skipped, (start, end)])
    joined = [ranges[0]]
    for begin, stop in ranges[1:]:
      if begin <= joined[-1][1]:
        joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
      else:
        joined.append((begin, stop))
    return dataclasses.replace(self, skipped=tuple(joined))

  def to_json(self) -> dict[str, Any]:
    """Plain values."""
    return {
      "records_consumed": self.consumed,
      "skipped": [list(places) for places in self.skipped],
    }

  @classmethod
  def from_json(cls, state: Mapping[str, Any]) -> "Position":
    """Reads what `to_json` gave.

    Raises:
      DataError: it did not give this.
    """
    consumed, skipped = state.get("records_consumed"), state.get("skipped", [])
    sound = type(consumed) is int and 0 <= consumed < cls.END
    try:
      ranges = tuple((int(start), int(end)) for start, end in skipped)
    except (TypeError, ValueError):
      sound, ranges = False, ()
    edges = [place for places in ranges for place in places]
    sound = sound and edges == sorted(set(edges)) and min(edges, default=0) >= 0
    if not sound:
      raise DataError(
        f"a stream cannot resume from {dict(state)!r}: records_consumed must "
        "be a whole number from 0, and skipped ranges of places in order; "
        "restore it from a checkpoint of this run"
      )
    return cls(consumed, ranges)
