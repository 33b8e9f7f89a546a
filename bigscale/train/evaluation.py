"""Scores of the moving average against the run's own data.

All processes draw and embed, each its share; process 0 alone reads the reals,
compares, and says what has failed. What fails on another process alone, inside
work of all devices, leaves the others waiting in it: nobody can save that, and
the watch over all processes ends them (`operations.hang_seconds`).
"""

import json
from typing import Any

from absl import logging

from bigscale.metrics.evaluate import Opened
from bigscale.metrics.evaluator import Evaluator, Scored, why
from bigscale.metrics.looking import Asked, Looked, look
from bigscale.metrics.share import share
from bigscale.parallel import interruption, multihost
from bigscale.spec import RunSpec
from bigscale.spec.scores import Score
from bigscale.train.build import Built
from bigscale.train.hooks import Recorder, draw_for_scores, open_scores
from bigscale.train.preemption import Preemption
from bigscale.train.state import Average

# How often a start of the run measures reals of which that has failed: it may
# take an hour, and fail in its last minute.
_TRIES = 3


def open_on_main(spec: RunSpec) -> Opened | None:
  """Opens what a run's scores need, before its first step.

  Returns:
    What is opened, on process 0; None on the others.

  Raises:
    SpecError: names every score that cannot be computed, on all processes; or
      what is computed once for all scores cannot be kept.
  """
  found = []

  def open_and_check() -> None:
    opened = open_scores(spec)
    opened.prepare_cache()
    found.append(opened)

  multihost.decide("what scores need", open_and_check)
  return found[0] if found else None


class Evaluation:
  """Scores the moving average; no score's failure is the end of the run."""

  def __init__(
    self,
    built: Built,
    recorder: Recorder,
    preemption: Preemption,
    evaluator: Evaluator | Opened | None = None,
  ) -> None:
    """Computes nothing yet.

    Args:
      built: of the run.
      recorder: of its rows and events.
      preemption: may break off scoring.
      evaluator: where the caller has one, it is used as it is; else what makes
        one, looked at on process 0. None opens that at the first score.
    """
    self._built = built
    self._recorder = recorder
    self._preemption = preemption
    self._opened = evaluator if isinstance(evaluator, Opened) else None
    self._given = evaluator is not None and self._opened is None
    self._evaluator = evaluator if self._given else None
    self._tries = 0
    self._failure = ""
    self._asked: Asked | None = None

  def run(self, step: int, ema: Average) -> Scored:
    """Draws, scores and writes one row, and how fast in an event.

    An event `score_failed` says of every score that is missing why.

    Returns:
      Scores by name, without the prefix `eval/`; the same on all processes.

    Raises:
      InterruptedWorkError: the run is asked to end; on all processes.
    """
    with interruption.asking(self._preemption.asked):
      scored = self._get_ready(step) or self._score(ema)
    if scored.scores:
      if multihost.is_main():
        self._recorder.event("evaluation", step, **self._evaluator.throughput)
      row = {f"eval/{name}": value for name, value in scored.scores.items()}
      self._recorder.row(step, row)
      logging.info("step %d: %s", step, json.dumps(scored.scores))
    self.tell(step, scored.failed)
    return scored

  def tell(self, step: int, failed: dict[str, str]) -> None:
    """Writes which scores of a step are missing, and why."""
    scores = map(Score.parse, self._built.spec.evaluate.scores)
    columns = {score.name: list(score.columns) for score in scores}
    for name, error in failed.items():
      self._recorder.event(
        "score_failed",
        step,
        score=name,
        columns=columns.get(name, [name]),
        error=error,
      )
      if multihost.is_main():
        logging.warning(
          "step %d has no %s, and the training goes on: %s", step, name, error
        )

  def without_any(self, error: str) -> Scored:
    """Returns that no score could be computed."""
    names = self._built.spec.evaluate.scores
    return Scored({}, {Score.parse(name).name: error for name in names})

  def _get_ready(self, step: int) -> Scored | None:
    """Measures the reals, and has all processes hold the same networks.

    Returns:
      What is missing, where no score can be computed; else None.
    """
    told = self._preemption.decide("reference", self._prepare)
    if told["failure"]:
      return self.without_any(told["failure"])
    if told["reference"] is not None:
      # Before the first draw: who waits in a collective may time out.
      mine = self._evaluator.asked if multihost.is_main() else None
      failure = ""
      try:
        self._asked = share(mine, self._built.mesh)
      except Exception as error:
        failure = why(error)
      if not multihost.all_true("shared networks", not failure):
        self._asked = None
        return self.without_any(
          failure
          or "another process cannot hold the networks: its log says why"
        )
      self._recorder.event("reference", step, **told["reference"])
    return Scored({}, told["failed"]) if told["nothing"] else None

  def _prepare(self) -> dict[str, Any]:
    """Makes the evaluator, where there is none or a part of it has failed.

    Returns:
      JSON values: its `reference` where it is a new one, why there is none,
      and, where it has `nothing` to score with, what has failed.
    """
    missing = self._evaluator is None or bool(self._evaluator.failed)
    anew = self._asked is None and self._evaluator is not None
    if missing and not self._given and self._tries < _TRIES:
      self._tries += 1
      try:
        self._opened = self._opened or open_scores(self._built.spec)
        self._evaluator = self._opened.evaluator(strict=False)
        anew = True
      except Exception as error:
        self._failure = why(error)
    if self._evaluator is None:
      return {"failure": self._failure}
    asked = self._evaluator.asked
    return {
      "failure": "",
      "reference": self._evaluator.reference if anew else None,
      "failed": self._evaluator.failed,
      "nothing": bool(self._evaluator.failed)
      and not (asked.networks or asked.pixels),
    }

  def _score(self, ema: Average) -> Scored:
    looked, failure = None, ""
    try:
      drawn = draw_for_scores(self._built, ema, self._asked)
      looked = look(self._asked, drawn)
    except Exception as error:
      # To draw has failed; a network's own failure is in what was seen.
      failure = why(error)
    told = self._preemption.decide(
      "scores", lambda: self._compare(looked, failure)._asdict()
    )
    return Scored(**told)

  def _compare(self, looked: Looked | None, failure: str) -> Scored:
    """Computes the scores on process 0; a failure leaves them all out."""
    if looked is None:
      return self.without_any(failure)
    try:
      return self._evaluator.compare(looked)
    except Exception as error:
      return self.without_any(why(error))
