"""How many blocks of a signal are compared with how many before them."""

import enum
from typing import NamedTuple


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


class Pace(enum.IntEnum):
  """How many values show a change of a signal.

  Attributes:
    FEW: two, for weights, which integrate their updates, and for probes.
    MANY: six, of which five must agree, for losses and gradients, which spike.
    JUMP: one, for a doubling. Coarser scales do not judge it.
  """

  FEW = 0
  MANY = 1
  JUMP = 2


_COARSE = Windows(4, 8, None)
# Windows of each pace by level. The last ones hold for all coarser scales.
_WINDOWS = {
  Pace.FEW: (Windows(2, 4, 0), _COARSE),
  Pace.MANY: (Windows(6, 8, 1), Windows(6, 8, 1), _COARSE),
  Pace.JUMP: (Windows(1, 4, 0),),
}
LARGEST_SIZE = max(w.last + w.before for p in Pace for w in _WINDOWS[p])


def windows_of(pace: Pace, level: int) -> Windows:
  """Returns the windows of a scale.

  Args:
    pace: how many values show a change.
    level: dyadic level of the scale.
  """
  windows = _WINDOWS[pace]
  return windows[min(level, len(windows) - 1)]
