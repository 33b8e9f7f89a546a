"""Combines the evidence of many columns into the evidence for a rollback."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigscale.monitor.column_signal import Found, Signal
from bigscale.monitor.columns import SIDES, SLIGHT, WEAK, is_norm_of_weights

# Minimum evidence of a second group: chance produces it once in 100 rows.
_STIRS = math.log(100)


class Group(NamedTuple):
  """The strongest evidence in a group of columns.

  Attributes:
    evidence: evidence in nats, corrected for the number of columns and groups.
    group: name of the group.
    name: name of the column with this evidence.
    found: uncorrected evidence of the column.
  """

  evidence: float
  group: str
  name: str
  found: Found


def live(signals: Mapping[str, Signal]) -> dict[str, list[str]]:
  """Returns the columns whose values have changed, by group."""
  groups: dict[str, list[str]] = {}
  for name, signal in signals.items():
    if signal.moves:
      groups.setdefault(signal.kind.group, []).append(name)
  return groups


def strongest(signals: Mapping[str, Signal]) -> list[Group]:
  """Returns the evidence of each group, the strongest group first.

  The verdict's false-alarm rate is divided evenly among the groups, and the
  rate of a group among its columns (Bonferroni).
  """
  groups = live(signals)
  found = []
  for group, names in groups.items():
    one, name = max((signals[n].found, n) for n in names)
    shared = one.evidence - math.log(len(names) * len(groups))
    found.append(Group(max(0.0, shared), group, name, one))
  return sorted(found, reverse=True)


def frozen(signals: Mapping[str, Signal], evidence: float) -> list[str]:
  """Returns the frozen columns if they show that a player stopped training.

  A single frozen norm of weights is enough, because every optimizer changes it.
  Otherwise more than half of the columns of a group, or of all groups together,
  must be frozen. Returns an empty list if they are not.

  Args:
    signals: signal of each column.
    evidence: -ln of the acceptable rate at which chance freezes a column.
  """
  held = [n for n, s in signals.items() if s.is_frozen(evidence)]
  if not held:
    return []
  norms = [name for name in held if is_norm_of_weights(name)]
  if norms:
    return norms
  groups = live(signals)
  everything = [name for names in groups.values() for name in names]
  for names in (*groups.values(), everything):
    mine = [name for name in names if name in held]
    if 2 * len(mine) > len(names) and len(mine) >= min(2, len(everything)):
      return mine
  return []


def total(found: Sequence[Group]) -> float:
  """Returns the evidence for a rollback, in nats.

  A weak group counts alone only if no other group is watched. Slight
  differences never count. Evidence of two
  groups of different sides is combined: the result is -ln of the probability
  that a product of two uniform variables is as small (Fisher 1932).

  Args:
    found: evidence of each group, the strongest first.
  """
  # Scores are too rare to count as another watched group.
  watched = {one.group for one in found} - {"other", "scores", SLIGHT}
  alone = [
    one.evidence
    for one in found
    if one.group not in WEAK
    or (one.group != SLIGHT and not watched - {one.group})
  ]
  best = max(alone, default=0.0)
  sided = [one for one in found if one.group in SIDES]
  for number, one in enumerate(sided):
    for other in sided[number + 1 :]:
      if SIDES[one.group] != SIDES[other.group] and other.evidence >= _STIRS:
        both = one.evidence + other.evidence
        best = max(best, both - math.log1p(both))
  return best
