"""Scores of the steps that a run saves."""

from bigscale.metrics.evaluate import Evaluator
from bigscale.parallel import multihost
from bigscale.train import hooks
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.state import GanState


class Scoring:
  """Scores steps that are saved, and notes the scores with them.

  Attributes:
    last: scores of the last evaluation, {} before.
  """

  def __init__(
    self,
    built: Built,
    recorder: hooks.Recorder,
    checkpoints: Checkpoints,
    evaluator: Evaluator | None = None,
  ) -> None:
    self._built = built
    self._recorder = recorder
    self._checkpoints = checkpoints
    self._evaluation = hooks.Evaluation(built, recorder, evaluator)
    self._watch = multihost.watch()
    self.last: dict[str, float] = {}

  def run(self, step: int, state: GanState) -> None:
    """Scores a step that was saved: what fails here costs no training."""
    with self._watch.phase("evaluate", step):
      self.last = self._evaluation.run(step, state.ema)
      self._checkpoints.set_scores(step, self.last)
    best = self._built.spec.best_score
    self._recorder.note(f"step {step}: {best} {self.last[best]:.4g}")

  def catch_up(self, step: int, state: GanState) -> None:
    """The same for the step that a run goes on from, unless it was done.

    A kill may have come between the save and its scores, or between the row
    of the scores and their note with the checkpoint.
    """
    if self._checkpoints.scores(step):
      return
    written = multihost.decide("scored", lambda: self._recorder.scored(step))
    if written:
      self._checkpoints.set_scores(step, written)
    else:
      self.run(step, state)
