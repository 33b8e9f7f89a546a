"""Scores of the steps that a run saves."""

from bigscale.metrics.evaluate import Opened
from bigscale.metrics.evaluator import Evaluator, Scored
from bigscale.metrics.features import Features
from bigscale.parallel import multihost
from bigscale.parallel.interruption import InterruptedWorkError
from bigscale.spec.scores import Score
from bigscale.train.build import Built
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.evaluation import Evaluation
from bigscale.train.preemption import Preemption
from bigscale.train.recorder import Recorder
from bigscale.train.state import GanState

# Maximum starts of a run that may end while they score the step that they
# resume from. After that, training continues without these scores.
_MAX_STARTS = 2


class Scoring:
  """Scores saved steps and stores the scores in their checkpoints.

  Attributes:
    last: result of the last evaluation; empty before the first.
    count: number of evaluations of this start.
  """

  def __init__(
    self,
    built: Built,
    recorder: Recorder,
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
    self.count = 0

  def network(self, step: int) -> Features | None:
    """Returns the network of a score for the anchor; see `Evaluation`."""
    return self._evaluation.network(step)

  def run(self, step: int, state: GanState) -> bool:
    """Scores a saved step.

    Returns:
      False if the run was asked to end before the scores were computed.
    """
    try:
      with self._watch.phase("evaluate", step):
        self.last = self._evaluation.run(step, state.ema)
        self.count += 1
        self._checkpoints.set_scores(step, self.last.scores)
    except InterruptedWorkError:
      return False
    best = self._built.spec.best_score
    score = self.last.scores.get(best)
    text = "is missing" if score is None else f"{score:.4g}"
    self._recorder.note(f"step {step}: {best} {text}")
    return True

  def nothing_to_do(self, step: int) -> str:
    """Returns a message that the run is complete, with its missing scores.

    Args:
      step: last step of the run.
    """
    spec = self._built.spec
    text = (
      f"nothing to do: the run is at {self._recorder.count.kimg(step):g} kimg "
      f"and total_kimg={spec.total_kimg:g}; raise total_kimg to continue"
    )
    known = self._checkpoints.scores(step)
    missing = [
      name
      for name in spec.evaluate.scores
      if known and not set(Score.parse(name).columns) & known.keys()
    ]
    if missing:
      text += (
        f". Step {step} has no {', '.join(missing)}; compute it with `bigscale "
        f"evaluate --metrics={','.join(missing)}`"
      )
    return text

  def catch_up(self, step: int, state: GanState) -> bool:
    """Scores the step that a run resumes from if its scores are missing.

    The run may have been killed after the save and before the scores, or after
    the row of scores and before they were stored in the checkpoint. A step is
    not scored again if its scores failed or if too many starts of the run ended
    while scoring it.

    Returns:
      False if the run was asked to end before the scores were computed.
    """
    if self._checkpoints.scores(step) is not None:
      return True
    written, starts = multihost.decide(
      "scored",
      lambda: [
        self._recorder.scores_in_rows(step),
        self._recorder.count_events("catch_up", step),
      ],
    )
    if written:
      self._checkpoints.set_scores(step, written)
    elif starts < _MAX_STARTS:
      self._recorder.event("catch_up", step)
      return self.run(step, state)
    else:
      self.last = self._evaluation.without_any(
        f"{starts} starts of the run ended while they scored this step"
      )
      self._evaluation.report_failures(step, self.last.failed)
      self._checkpoints.set_scores(step, {})
    return True
