"""Scores of checkpoints, and the selection of the best checkpoints.

The scores of a step are stored in its checkpoint folder (`STEP/scores.json`).
They are moved and deleted together with the checkpoint, including by a
rollback, and can be added after the checkpoint is complete.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.place import open_place
from bigscale.spec.scores import rises
from bigscale.train import sealed
from bigscale.train.steps import Steps

FILE = "scores.json"
_log = logging.getLogger(__name__)


def write(
  directory: str | os.PathLike[str], step: int, scores: Mapping[str, float]
) -> None:
  """Writes the scores of a step into its folder atomically."""
  values = {name: float(score) for name, score in scores.items()}
  content = sealed.seal({"step": step, "scores": values})
  open_place(directory).write(FILE, json.dumps(content).encode())


def read(
  directory: str | os.PathLike[str], step: int
) -> dict[str, float] | None:
  """Returns the scores of a step, or None if it has no scores.

  Raises:
    sealed.SealError: if the scores are damaged.
  """
  try:
    text = open_place(directory).read(FILE)
  except FileNotFoundError:
    return None
  except OSError as error:
    raise sealed.SealError(f"cannot be read ({error})") from error
  try:
    content = sealed.unseal(json.loads(text))
  except ValueError as error:
    raise sealed.SealError(str(error)) from error
  if content["step"] != step:
    raise sealed.SealError(f"belongs to step {content['step']}")
  return content["scores"]


class Ranking:
  """Ranks saved steps by their scores.

  All processes hold the same scores and therefore keep the same steps.
  """

  def __init__(
    self, count: int, column: str, names: Sequence[str] = ()
  ) -> None:
    """Initializes an empty ranking.

    Args:
      count: number of best steps to keep.
      column: score column to rank by; "" means the first column.
      names: names of the run's scores, which define whether higher is better;
        () means bigscale's built-in scores.
    """
    self._count = count
    self._column = column
    self._names = names
    self._scores: dict[int, dict[str, float]] = {}
    self._unreadable: frozenset[int] = frozenset()

  def load(self, folders: Steps, steps: Sequence[int]) -> list[Any]:
    """Reads the scores of steps from their folders.

    Returns:
      The argument of `take`, as plain JSON.
    """
    found: list[Any] = []
    for step in steps:
      try:
        directory = folders.address(step)
        found.append([step, read(directory, step)])
      except FileNotFoundError:  # Another process deletes it.
        found.append([step, None])
      except sealed.SealError as error:
        _log.warning(
          "%s/%s is damaged (%s); its checkpoint is kept until you delete it",
          directory,
          FILE,
          error,
        )
        found.append([step, "damaged"])
    return found

  def take(self, loaded: Sequence[Any]) -> None:
    """Replaces all scores with those that `load` returned."""
    self._scores, unreadable = {}, set()
    for step, scores in loaded:
      if scores == "damaged":
        unreadable.add(step)
      elif scores is not None:
        self.put(step, scores)
    self._unreadable = frozenset(unreadable)

  def put(self, step: int, scores: Mapping[str, float]) -> None:
    """Adds the scores of one step."""
    self._scores[step] = dict(scores)
    self._unreadable -= {step}
    # Empty scores mean that scoring failed, which was already reported.
    if scores and self._count and self._column and self._column not in scores:
      _log.warning(
        "step %d is not ranked: it has no score %r (only %s)",
        step,
        self._column,
        ", ".join(scores),
      )

  def get(self, step: int) -> dict[str, float] | None:
    """Returns the scores of a step, or None if they are unknown."""
    return self._scores.get(step)

  def best(self, steps: Sequence[int]) -> list[int]:
    """Returns the steps to keep for their scores, the best first.

    Steps without a finite score are not ranked. Ties go to the earlier step.
    Steps with damaged scores are kept in addition, because any of them may be
    the best.
    """
    if not self._count:
      return []
    ranked = []
    for step in steps:
      scores = self._scores.get(step, {})
      column = self._column or next(iter(scores), "")
      score = scores.get(column, math.nan)
      if math.isfinite(score):
        ranked.append((-score if rises(column, self._names) else score, step))
    kept = [step for _, step in sorted(ranked)[: self._count]]
    return kept + [step for step in steps if step in self._unreadable]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Implements Orbax's `PreservationPolicy` for all saved steps."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = self.best(steps)
    return [step in best for step in steps]
