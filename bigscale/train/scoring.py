"""Scores of the steps that a run saves."""

from bigscale.metrics.evaluate import Opened
from bigscale.metrics.evaluator import Evaluator, Scored
from bigscale.parallel import multihost
from bigscale.parallel.interruption import InterruptedWorkError
from bigscale.spec.scores import Score
from bigscale.train import hooks
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.evaluation import Evaluation
from bigscale.train.preemption import Preemption
from bigscale.train.state import GanState

# How many starts of a run score the step that they go on from, where each ends
# while it does: training is to go on.
_TRIES = 2


class Scoring:
  """Scores steps that are saved, and notes the scores with them.

  Attributes:
    last: the last evaluation, without scores before.
  """

  def __init__(
    self,
    built: Built,
    recorder: hooks.Recorder,
    checkpoints: Checkpoints,
    preemption: Preemption,
    evaluator: Evaluator | Opened | None = None,
  ) -> None:
    self._built = built
    self._recorder = recorder
    self._checkpoints = checkpoints
    self._evaluation = Evaluation(built, recorder, preemption, evaluator)
    self._watch = multihost.watch()
    self.last = Scored({})

  def run(self, step: int, state: GanState) -> bool:
    """Scores a step that was saved: what fails here costs no training.

    Returns:
      False where the run was asked to end before the scores were there.
    """
    try:
      with self._watch.phase("evaluate", step):
        self.last = self._evaluation.run(step, state.ema)
        self._checkpoints.set_scores(step, self.last.scores)
    except InterruptedWorkError:
      return False
    best = self._built.spec.best_score
    score = self.last.scores.get(best)
    said = "is missing" if score is None else f"{score:.4g}"
    self._recorder.note(f"step {step}: {best} {said}")
    return True

  def nothing_to_do(self, step: int) -> str:
    """Says that a run is at its end, and which scores asked for are not there.

    Args:
      step: that it stands at.
    """
    spec = self._built.spec
    text = (
      f"nothing to do: {self._recorder.count.kimg(step):g} kimg are shown, and "
      f"total_kimg={spec.total_kimg:g}; raise it to go on"
    )
    known = self._checkpoints.scores(step)
    lacking = [
      name
      for name in spec.evaluate.scores
      if known and not set(Score.parse(name).columns) & known.keys()
    ]
    if lacking:
      text += (
        f". Step {step} was scored without {', '.join(lacking)}: `bigscale "
        f"evaluate --metrics={','.join(lacking)}` computes it"
      )
    return text

  def catch_up(self, step: int, state: GanState) -> bool:
    """The same for the step that a run goes on from, unless it was done.

    A kill may have come between the save and its scores, or between the row
    of the scores and their note with the checkpoint. A step that was scored in
    vain has no scores, and is not scored again; nor is one at which a start of
    the run has ended often enough.

    Returns:
      As `run`.
    """
    if self._checkpoints.scores(step) is not None:
      return True
    written, tries = multihost.decide(
      "scored",
      lambda: [
        self._recorder.scored(step),
        self._recorder.told("catch_up", step),
      ],
    )
    if written:
      self._checkpoints.set_scores(step, written)
    elif tries < _TRIES:
      self._recorder.event("catch_up", step)
      return self.run(step, state)
    else:
      self.last = self._evaluation.without_any(
        f"{tries} starts of the run have ended while they scored the step"
      )
      self._evaluation.tell(step, self.last.failed)
      self._checkpoints.set_scores(step, {})
    return True
