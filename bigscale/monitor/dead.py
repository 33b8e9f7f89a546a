"""Detects a discriminator whose ReLUs are dead.

Such a discriminator has the same logit for every image and a gradient of zero,
so it cannot recover. The gradient of a hinge loss is also zero when D separates
all reals from all fakes, but then the logits of reals and fakes differ.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

# Minimum number of rows that show a dead D. By chance, all images of a single
# step may lie where D is constant.
ROWS = 3
# Minimum fraction of a dead D's rows that show it.
_MOST = 0.75


def is_dead(row: Mapping[str, Any]) -> bool:
  """Returns whether the scalars of a step show a dead discriminator."""
  names = ("d/grad_norm", "d/logit_real", "d/logit_fake")
  norm, real, fake = (row.get(name) for name in names)
  # A trace may contain values that are not numbers.
  known = all(isinstance(x, numbers.Real) for x in (norm, real, fake))
  return known and norm == 0 and real == fake


def dead_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
  """Returns the step from which D is dead until the end; None if it is not.

  A few of the rows may show a gradient, because a few ReLUs may be active for a
  moment without a lasting recovery.

  Args:
    rows: rows of `metrics.jsonl`, in the order of steps.
  """
  known = [(row["step"], is_dead(row)) for row in rows if "d/grad_norm" in row]
  count, dead, found = 0, 0, None
  for step, is_it in reversed(known):
    count, dead = count + 1, dead + is_it
    if is_it and dead >= ROWS and dead >= _MOST * count:
      found = step
  return found
