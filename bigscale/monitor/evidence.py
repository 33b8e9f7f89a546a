"""Combines the evidence of many columns into the evidence for a rollback."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigscale.monitor.column_signal import Found, Signal
from bigscale.monitor.columns import SIDES, WEAK, is_norm_of_weights

# Evidence that a second group must show to be added: once in 100 rows.
_STIRS = math.log(100)


class Group(NamedTuple):
  """What a group of columns shows.

  Attributes:
    evidence: in nats, after the group's share of the rate is taken off.
    group: its name.
    name: of the column that shows it.
    found: in that column.
  """

  evidence: float
  group: str
  name: str
  found: Found


def live(signals: Mapping[str, Signal]) -> dict[str, list[str]]:
  """Returns the columns that have moved, by group."""
  groups: dict[str, list[str]] = {}
  for name, signal in signals.items():
    if signal.moves:
      groups.setdefault(signal.kind.group, []).append(name)
  return groups


def strongest(signals: Mapping[str, Signal]) -> list[Group]:
  """Returns what each group shows, the strongest group first.

  Bonferroni: the columns of a group share its rate of false alarms, and the
  groups share the verdict's.
  """
  groups = live(signals)
  found = []
  for group, names in groups.items():
    one, name = max((signals[n].found, n) for n in names)
    shared = one.evidence - math.log(len(names) * len(groups))
    found.append(Group(max(0.0, shared), group, name, one))
  return sorted(found, reverse=True)


def frozen(signals: Mapping[str, Signal], evidence: float) -> list[str]:
  """Returns the columns that are frozen, where that means a dead player.

  One norm of weights is enough: no optimizer leaves it as it is. Of other
  columns more than half of a group must be frozen.

  Args:
    signals: by column.
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
  """Returns the evidence for a rollback, of the strongest group first.

  A weak group counts by itself only where no other one is watched. Otherwise
  evidence of two sides is added: -ln of the probability that the product of two
  uniform variables is as small (Fisher 1932).
  """
  # Scores come too seldom to speak for the others.
  watched = {one.group for one in found} - {"other", "scores"}
  alone = [
    one.evidence
    for one in found
    if one.group not in WEAK or not watched - {one.group}
  ]
  best = max(alone, default=0.0)
  sided = [one for one in found if one.group in SIDES]
  for number, one in enumerate(sided):
    for other in sided[number + 1 :]:
      if SIDES[one.group] != SIDES[other.group] and other.evidence >= _STIRS:
        both = one.evidence + other.evidence
        best = max(best, both - math.log1p(both))
  return best
