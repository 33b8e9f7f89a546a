"""Combines the evidence of many columns into the evidence for a rollback."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigscale.monitor.column_signal import Found, Signal
from bigscale.monitor.columns import SIDES, WEAK, is_norm_of_weights

# Minimum evidence of a second group to be added: once in 100 rows.
_STIRS = math.log(100)


class Group(NamedTuple):
  """The evidence in a group of columns.

  Attributes:
    evidence: evidence in nats, corrected for the number of columns and groups.
    group: name of the group.
    name: name of the column with the strongest evidence.
    found: evidence in that column.
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

  The columns of a group share the group's rate of false alarms, and the groups
  share the verdict's rate (Bonferroni).
  """
  groups = live(signals)
  found = []
  for group, names in groups.items():
    one, name = max((signals[n].found, n) for n in names)
    shared = one.evidence - math.log(len(names) * len(groups))
    found.append(Group(max(0.0, shared), group, name, one))
  return sorted(found, reverse=True)


def frozen(signals: Mapping[str, Signal], evidence: float) -> list[str]:
  """Returns the frozen columns if they show that a player is dead, else [].

  One frozen norm of weights is enough, because every update of an optimizer
  changes it. Of other columns, more than half of a group must be frozen.

  Args:
    signals: signals by column name.
    evidence: -ln of the rate at which chance may freeze a column.
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

  This is the largest evidence of a single group or of two groups from different
  sides. A weak group alone counts only if no other group is watched. The
  evidence of two groups is combined by Fisher's method (1932): -ln of the
  probability that the product of two uniform variables is as small.

  Args:
    found: evidence of all groups, the strongest first.
  """
  # Scores are too rare to replace the other groups.
  watched = {one.group for one in found} - {"other", "scores"}
  alone = [
    one.evidence
    for one in found
    if one.group not in WEAK or not watched - {one.group}
  ]
  best = max(alone, default=0.0)
  for number, one in enumerate(found):
    for other in found[number + 1 :]:
      if SIDES[one.group] != SIDES[other.group] and other.evidence >= _STIRS:
        both = one.evidence + other.evidence
        best = max(best, both - math.log1p(both))
  return best
