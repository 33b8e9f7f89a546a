"""Scores the moving average against the run's own data.

All processes generate and embed their share of the samples. Process 0 alone
reads the reals, computes the scores and reports failures. If another process
fails during a computation on all devices, the remaining processes hang there
until the watchdog ends them (`operations.hang_seconds`).
"""

import json
from collections.abc import Iterator
from typing import Any

from absl import logging

from bigscale.metrics.evaluate import Opened, open_evaluation
from bigscale.metrics.evaluator import Evaluator, Scored, why
from bigscale.metrics.features import Features
from bigscale.metrics.looking import Asked, Looked, look
from bigscale.metrics.share import share
from bigscale.parallel import interruption, multihost
from bigscale.spec import RunSpec
from bigscale.spec.scores import CLASSIFIER, Score
from bigscale.train.build import Built
from bigscale.train.drawing import draw_for_scores
from bigscale.train.preemption import Preemption
from bigscale.train.recorder import Recorder
from bigscale.train.state import Average

# Maximum attempts per start to measure the reals. An attempt can take an hour.
_MAX_ATTEMPTS = 3


def evaluator_of(spec: RunSpec) -> Evaluator:
  """Returns the evaluator of a run's data at the model's resolution."""
  return open_scores(spec).evaluator()


def open_scores(spec: RunSpec) -> Opened:
  """Opens the data and networks of a run's scores and checks each score.

  Raises:
    SpecError: if scores cannot be computed; the message names all of them.
  """
  return open_evaluation(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    num_samples=spec.evaluate.num_samples,
    scores=spec.evaluate.scores,
    num_reals=spec.evaluate.num_reals,
    classifier_steps=spec.evaluate.classifier_steps,
    labels=spec.evaluate.labels,
  )


def open_on_main(spec: RunSpec) -> Opened | None:
  """Opens the data and networks of a run's scores before its first step.

  Returns:
    The opened inputs on process 0; None on the other processes.

  Raises:
    SpecError: if scores cannot be computed (the message names all of them), or
      if the cache folder cannot be created; on all processes.
  """
  found = []

  def open_and_check() -> None:
    opened = open_scores(spec)
    opened.prepare_cache()
    found.append(opened)

  multihost.decide("what scores need", open_and_check)
  return found[0] if found else None


class Evaluation:
  """Scores the moving average; a failed score does not end the run."""

  def __init__(
    self,
    built: Built,
    recorder: Recorder,
    preemption: Preemption,
    evaluator: Evaluator | Opened | None = None,
  ) -> None:
    """Initializes without computing anything.

    Args:
      built: functions of the run.
      recorder: writer of the run's rows and events.
      preemption: preemption handler, which can interrupt scoring.
      evaluator: a ready evaluator, or the opened inputs from which process 0
        makes one. None opens the inputs at the first evaluation.
    """
    self._built = built
    self._recorder = recorder
    self._preemption = preemption
    self._opened = evaluator if isinstance(evaluator, Opened) else None
    self._given = evaluator is not None and self._opened is None
    self._evaluator = evaluator if self._given else None
    self._attempts = 0
    self._failure = ""
    self._asked: Asked | None = None

  def run(self, step: int, ema: Average) -> Scored:
    """Samples, computes the scores and writes them as one row.

    Also writes an event with the throughput, and an event `score_failed` with
    the reason for each missing score.

    Returns:
      Scores by name, without the prefix `eval/`; equal on all processes.

    Raises:
      InterruptedWorkError: if the run was asked to end; on all processes.
    """
    with interruption.asking(self._preemption.asked):
      scored = self._get_ready(step) or self._score(ema)
    if scored.scores:
      if multihost.is_main():
        self._recorder.event("evaluation", step, **self._evaluator.throughput)
      row = {f"eval/{name}": value for name, value in scored.scores.items()}
      self._recorder.row(step, row)
      logging.info("step %d: %s", step, json.dumps(scored.scores))
    self.report_failures(step, scored.failed)
    return scored

  def network(self, step: int) -> Features | None:
    """Returns a network of the scores, on the mesh of all processes.

    The classifier is preferred, because it knows the labels; it is trained if
    necessary. Returns None if the scores have no network, or if it cannot be
    opened; training continues, and an event says why.

    Raises:
      InterruptedWorkError: if the run was asked to end; on all processes.
    """
    if self._built.spec.monitor.anchor.network == "none":
      return None
    found: list[tuple[str, Features]] = []

    def choose() -> str | None:
      try:
        found.extend(self._networks())
        return None if found else ""
      except Exception as error:
        return why(error)

    with interruption.asking(self._preemption.asked):
      failure = self._preemption.decide("network", choose)
    if failure is not None:
      if failure:
        self._recorder.event("anchor_network_failed", step, error=failure)
      return None
    asked, network, failure = None, None, ""
    if found:
      feature, network = found[0]
      asked = Asked((network,), ((),), 0, 0, features=(feature,))
    try:
      network = share(asked, self._built.mesh).networks[0]
    except Exception as error:
      failure = why(error)
    if multihost.all_true("the anchor's network", not failure):
      return network
    self._recorder.event(
      "anchor_network_failed", step, error=failure or "on another process"
    )
    return None

  def _networks(self) -> Iterator[tuple[str, Features]]:
    """Yields the preferred feature of the scores and its network, if any."""
    if self._given:
      panels = self._evaluator.panels
      panels = sorted(panels, key=lambda panel: panel.feature != CLASSIFIER)
      yield from ((panel.feature, panel.network) for panel in panels[:1])
      return
    self._opened = self._opened or open_scores(self._built.spec)
    for feature in self._opened.features[:1]:
      yield feature, self._opened.network(feature)

  def report_failures(self, step: int, failed: dict[str, str]) -> None:
    """Writes an event for each missing score of a step, with the reason."""
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
          "step %d: cannot compute %s, training continues: %s",
          step,
          name,
          error,
        )

  def without_any(self, error: str) -> Scored:
    """Returns a result in which all scores failed with this error."""
    names = self._built.spec.evaluate.scores
    return Scored({}, {Score.parse(name).name: error for name in names})

  def _get_ready(self, step: int) -> Scored | None:
    """Measures the reals and shares the networks with all processes.

    Returns:
      The failures if no score can be computed, else None.
    """
    prepared = self._preemption.decide("reference", self._prepare)
    if prepared["failure"]:
      return self.without_any(prepared["failure"])
    if prepared["reference"] is not None:
      # Before sampling: a process that waits in a collective may time out.
      mine = self._evaluator.asked if multihost.is_main() else None
      failure = ""
      try:
        self._asked = share(mine, self._built.mesh)
      except Exception as error:
        failure = why(error)
      if not multihost.all_true("shared networks", not failure):
        self._asked = None
        return self.without_any(
          failure or "another process could not load the networks; see its log"
        )
      self._recorder.event("reference", step, **prepared["reference"])
    return Scored({}, prepared["failed"]) if prepared["nothing"] else None

  def _prepare(self) -> dict[str, Any]:
    """Makes the evaluator if it does not exist or some of its scores failed.

    Returns:
      Plain JSON. `failure` is the reason why there is no evaluator, or "".
      `reference` describes a new evaluator and is None otherwise. `failed`
      contains the reasons by score. `nothing` says that no score is left.
    """
    missing = self._evaluator is None or bool(self._evaluator.failed)
    is_new = self._asked is None and self._evaluator is not None
    if missing and not self._given and self._attempts < _MAX_ATTEMPTS:
      self._attempts += 1
      try:
        self._opened = self._opened or open_scores(self._built.spec)
        self._evaluator = self._opened.evaluator(strict=False)
        is_new = True
      except Exception as error:
        self._failure = why(error)
    if self._evaluator is None:
      return {"failure": self._failure}
    asked = self._evaluator.asked
    return {
      "failure": "",
      "reference": self._evaluator.reference if is_new else None,
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
      # Sampling failed. Failures of single networks are reported in `looked`.
      failure = why(error)
    scored = self._preemption.decide(
      "scores", lambda: self._compare(looked, failure)._asdict()
    )
    return Scored(**scored)

  def _compare(self, looked: Looked | None, failure: str) -> Scored:
    """Computes the scores on process 0; an exception fails all of them."""
    if looked is None:
      return self.without_any(failure)
    try:
      return self._evaluator.compare(looked)
    except Exception as error:
      return self.without_any(why(error))
