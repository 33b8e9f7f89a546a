"""A discriminator whose ReLUs are dead: it does not come back.

It says the same of every image and gets no gradient. A hinge loss has none
either where D tells all apart, but then its logits of reals and fakes differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# In a row before it is believed: a few images may all lie where D is flat.
ROWS = 3


def is_dead(row: Mapping[str, Any]) -> bool:
  """Whether the scalars of a step are those of a dead D."""
  if "d/grad_norm" not in row or "d/logit_real" not in row:
    return False
  return row["d/grad_norm"] == 0 and row["d/logit_real"] == row.get(
    "d/logit_fake"
  )


def dead_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
  """Step from which on D was dead to the end; None where it was not.

  Args:
    rows: of metrics.jsonl, in the order of steps.
  """
  rows = [row for row in rows if "d/grad_norm" in row]
  last = [row["step"] for row in rows if not is_dead(row)][-1:]
  dead = [row["step"] for row in rows if not last or row["step"] > last[0]]
  return dead[0] if len(dead) >= ROWS else None
