"""Detects a discriminator whose ReLUs are dead. It does not recover.

Its logit is the same for every image, and its gradient is zero. A hinge loss
also has a zero gradient if D separates all reals from all fakes, but then their
logits differ.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

# Minimum consecutive rows. In fewer, all images may lie where D is flat.
ROWS = 3
# Minimum fraction of the rows in which a dead D has no gradient.
_MOST = 0.75


def is_dead(row: Mapping[str, Any]) -> bool:
  """Returns whether the scalars of a step show a dead D."""
  names = ("d/grad_norm", "d/logit_real", "d/logit_fake")
  norm, real, fake = (row.get(name) for name in names)
  # A recorded trace may contain values of any type.
  known = all(isinstance(x, numbers.Real) for x in (norm, real, fake))
  return known and norm == 0 and real == fake


def dead_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
  """Returns the first step from which D was dead until the end, or None.

  Up to a quarter of these rows may have a gradient, because single ReLUs of a
  dead D may still become active.

  Args:
    rows: rows of metrics.jsonl, sorted by step.
  """
  known = [(row["step"], is_dead(row)) for row in rows if "d/grad_norm" in row]
  count, dead, found = 0, 0, None
  for step, is_it in reversed(known):
    count, dead = count + 1, dead + is_it
    if is_it and dead >= ROWS and dead >= _MOST * count:
      found = step
  return found
