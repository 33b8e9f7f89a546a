"""Scores of checkpoints, and which checkpoints are kept for them.

The scores of a step lie in its own folder (`STEP/scores.json`): they move,
stay and go with the checkpoint that they belong to, whatever a rollback or a
kill does, and they can be added when the checkpoint is long complete.
"""

import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.spec.scores import rises
from bigscale.train import sealed
from bigscale.train.folder import write_whole

FILE = "scores.json"
_log = logging.getLogger(__name__)


def write(
  directory: pathlib.Path, step: int, scores: Mapping[str, float]
) -> None:
  """Writes the scores of a step into its folder, whole or not at all."""
  values = {name: float(score) for name, score in scores.items()}
  content = sealed.seal({"step": step, "scores": values})
  write_whole(directory / FILE, json.dumps(content))


def read(directory: pathlib.Path, step: int) -> dict[str, float] | None:
  """Returns the scores of a step, None where it has none.

  Raises:
    sealed.SealError: they are damaged.
  """
  try:
    text = (directory / FILE).read_bytes()
  except FileNotFoundError:
    return None
  except OSError as error:
    raise sealed.SealError(f"it cannot be read ({error})") from error
  try:
    content = sealed.unseal(json.loads(text))
  except ValueError as error:
    raise sealed.SealError(str(error)) from error
  if content["step"] != step:
    raise sealed.SealError(f"it is of step {content['step']}")
  return content["scores"]


class Ranking:
  """The scores of the steps that there are.

  It decides alike on all processes, which hold the same scores.
  """

  def __init__(
    self, count: int, column: str, names: Sequence[str] = ()
  ) -> None:
    """Knows no scores yet.

    Args:
      count: how many of the best are kept.
      column: of the scores, that they are ranked by; "" takes the first.
      names: of the scores, whose rows say which way is better; () looks among
        bigscale's own.
    """
    self._count = count
    self._column = column
    self._names = names
    self._scores: dict[int, dict[str, float]] = {}
    self._unreadable: frozenset[int] = frozenset()

  def load(self, directory: pathlib.Path, steps: Sequence[int]) -> list[Any]:
    """Reads the scores of steps from their folders.

    Returns:
      What `take` takes, as plain JSON.
    """
    found: list[Any] = []
    for step in steps:
      try:
        found.append([step, read(directory / str(step), step)])
      except sealed.SealError as error:
        _log.warning(
          "%s is damaged: %s; its checkpoint is kept until you remove it",
          directory / str(step) / FILE,
          error,
        )
        found.append([step, "damaged"])
    return found

  def take(self, loaded: Sequence[Any]) -> None:
    """Knows the scores that `load` found, and no others."""
    self._scores, unreadable = {}, set()
    for step, scores in loaded:
      if scores == "damaged":
        unreadable.add(step)
      elif scores is not None:
        self.put(step, scores)
    self._unreadable = frozenset(unreadable)

  def put(self, step: int, scores: Mapping[str, float]) -> None:
    """Knows the scores of one more step."""
    self._scores[step] = dict(scores)
    self._unreadable -= {step}
    # Of one that was scored in vain, its run has said so.
    if scores and self._count and self._column and self._column not in scores:
      _log.warning(
        "step %d has no %r among its scores (%s): it is not ranked",
        step,
        self._column,
        ", ".join(scores),
      )

  def get(self, step: int) -> dict[str, float] | None:
    """The scores of a step, None where they are not known."""
    return self._scores.get(step)

  def best(self, steps: Sequence[int]) -> list[int]:
    """Those of the steps that are kept for their scores, the best first.

    A score that is no finite number is never the best. Of equal ones the
    earlier step's is. A step whose scores are damaged may be the best one, and
    is kept besides.
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
    """Orbax's question (`PreservationPolicy`), of all steps that there are."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = self.best(steps)
    return [step in best for step in steps]
