"""A discriminator whose ReLUs are dead: it does not come back.

It says the same of every image and gets no gradient. A hinge loss has none
either where D tells all apart, but then its logits of reals and fakes differ.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

# In a row before it is believed: a few images may all lie where D is flat.
ROWS = 3
# Part of the rows of a dead D.
_MOST = 0.75


def is_dead(row: Mapping[str, Any]) -> bool:
  """Whether the scalars of a step are those of a dead D."""
  names = ("d/grad_norm", "d/logit_real", "d/logit_fake")
  norm, real, fake = (row.get(name) for name in names)
  # Anything may stand in a trace.
  known = all(isinstance(x, numbers.Real) for x in (norm, real, fake))
  return known and norm == 0 and real == fake


def dead_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
  """Step from which on D was dead to the end; None where it was not.

  A few ReLUs that flicker do not bring it back: some rows may be alive.

  Args:
    rows: of metrics.jsonl, in the order of steps.
  """
  known = [(row["step"], is_dead(row)) for row in rows if "d/grad_norm" in row]
  count, dead, found = 0, 0, None
  for step, is_it in reversed(known):
    count, dead = count + 1, dead + is_it
    if is_it and dead >= ROWS and dead >= _MOST * count:
      found = step
  return found
