"""Scores samples, by whatever networks are asked for.

Who samples, with which weights and on which devices, is the caller's matter:
an `Evaluator` takes batches of uint8 images with the labels asked for.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.metrics.features import Features
from bigscale.metrics.labels import LabelPlan, labels_of, unlabelled
from bigscale.metrics.looking import Asked, Looked, look
from bigscale.metrics.pace import Pace
from bigscale.metrics.panel import compare_each
from bigscale.metrics.pixels import Keeping
from bigscale.metrics.reference import Reference
from bigscale.spec import SpecError
from bigscale.spec.scores import CLASSIFIER, column

_log = logging.getLogger(__name__)


class Panel(NamedTuple):
  """A network, what it makes of the reals, and the scores asked of both.

  Attributes:
    network: embeds.
    reference: what it makes of the reals.
    kinds: of scores.
    feature: that the network was opened by.
  """

  network: Features
  reference: Reference
  kinds: tuple[str, ...]
  feature: str

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the columns of its scores."""
    return tuple(column(kind, self.network.name) for kind in self.kinds)

  def without(self, names: Collection[str]) -> "Panel":
    """The same without some of its scores."""
    kinds = zip(self.kinds, self.names, strict=True)
    left = tuple(kind for kind, name in kinds if name not in names)
    return self._replace(kinds=left)


class Scored(NamedTuple):
  """Scores of one evaluation, and why others are missing.

  Attributes:
    scores: by column.
    failed: by score, why it could not be computed. None of its columns is in
      `scores`.
  """

  scores: dict[str, float]
  failed: Mapping[str, str] = {}


def why(error: Exception) -> str:
  """Returns what failed in a line; a bug's traceback goes into the log."""
  if isinstance(error, SpecError):
    return str(error)
  _log.error("a score failed", exc_info=error)
  lines = str(error).strip().splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:300]}".removesuffix(": ")


class Evaluator:
  """Scores samples of one source at one size.

  Attributes:
    reference: JSON values, the same at every score: the floors and baselines
      of `bigscale.metrics.reference`, the counts, the `protocol`, and
      `classifier_accuracy` on the held-out split where there is a classifier,
      of all classes of the source even where a run has some of them.
    asked: what samples are looked at with.
    panels: networks, reals and scores.
    failed: by score, why it cannot be computed whatever the samples are.
    throughput: JSON values of the newest score: of `drawing` samples and of
      each network's embedding `seconds` and `images_per_second`
      (`bigscale.metrics.pace`), and `seconds` of the `scoring` after it.
  """

  def __init__(
    self,
    panels: Sequence[Panel],
    class_names: tuple[str, ...],
    reference: dict[str, Any],
    *,
    conditional: bool,
    num_samples: int,
    pixels: Sequence[Keeping] = (),
    plan: LabelPlan | None = None,
    failed: Mapping[str, str] | None = None,
  ) -> None:
    plan = plan or unlabelled("samples are not drawn here")
    reference["protocol"]["labels"] = plan.protocol
    self.reference = reference
    self.panels = tuple(panels)
    self.failed = dict(failed or {})
    self.throughput: dict[str, dict[str, float]] = {}
    self.asked = Asked(
      tuple(panel.network for panel in panels),
      tuple(panel.kinds for panel in panels),
      num_samples,
      len(class_names),
      tuple(pixels),
      plan.counts,
      tuple(panel.feature for panel in panels),
    )
    self._class_names = class_names
    self._conditional = conditional

  def labels(self, seed: int) -> np.ndarray | None:
    """Returns the class that each sample is to be drawn for.

    Args:
      seed: of their order.

    Returns:
      [num_samples] int32; None where samples are not drawn for a class.
    """
    return labels_of(self.asked.class_counts, seed)

  def score(
    self, sample_batches: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> dict[str, float]:
    """Scores the first `num_samples` samples.

    Args:
      sample_batches: pairs of images [N, R, R, C] uint8 and labels [N] int32
        (not looked at for an unconditional model), of any N. No batch is
        asked for beyond the last one needed.

    Returns:
      The columns of the scores asked for (`bigscale.spec.scores`); compare
      them with those of `reference`. With a classifier also:

      classes_present: classes with at least a tenth of their share among the
        reals in predictions of probability 0.5 or more.
      label_agreement: share of samples classified as the label they were
        asked for; near `classifier_accuracy` for reals. Only of conditional
        models.
      class_share/NAME: share of samples classified as NAME; they add up to 1.
        Only of up to 100 classes.

    Raises:
      SpecError: a score cannot be computed, or there are fewer samples, or of
        another shape or type. `scored` gives the others.
    """
    found = self.scored(sample_batches)
    for name, reason in found.failed.items():
      raise SpecError(f"{name} could not be computed: {reason}")
    return found.scores

  def scored(
    self, sample_batches: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> Scored:
    """As `score`, where a score that fails leaves the others as they are."""
    return self.compare(look(self.asked, sample_batches))

  def compare(self, looked: Looked) -> Scored:
    """Scores what was seen of samples, each score whatever the others do."""
    scoring = Pace()
    scored = scoring.of(self.asked.num_samples, lambda: self._scored(looked))
    self.throughput = {
      **looked.throughput,
      "scoring": {"seconds": scoring.summary()["seconds"]},
    }
    return scored

  def _scored(self, looked: Looked) -> Scored:
    scores: dict[str, float] = {}
    failed: dict[str, str] = dict(self.failed)
    for panel, seen in zip(self.panels, looked.seen, strict=True):
      name, reals = panel.network.name, panel.reference
      if name in looked.failed:
        failed |= dict.fromkeys(panel.names, why(looked.failed[name]))
        continue
      found, errors = compare_each(
        seen._replace(class_names=self._class_names),
        reals.reals,
        panel.kinds,
        name,
      )
      scores |= found
      failed |= {score: why(error) for score, error in errors.items()}
      if name == CLASSIFIER:
        scores |= looked.tally.scores(
          reals.label_counts, self._class_names, self._conditional
        )
    for kind, keeper in looked.kept.items():
      try:
        if isinstance(keeper, Exception):
          raise keeper
        scores |= keeper.scores()
      except Exception as error:
        failed[column(kind, "")] = why(error)
    return Scored(scores, failed)


def describe_networks(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
  """By name, what scores of each network depend on."""
  return {
    panel.network.name: {
      **panel.network.protocol,
      "fingerprint": panel.network.fingerprint,
    }
    for panel in panels
  }
