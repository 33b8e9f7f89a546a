"""Computes the scores of samples.

An `Evaluator` takes batches of uint8 images with the labels that they are
conditioned on. The caller generates them, with any weights and devices.
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
from bigscale.metrics.pixels import ImageSelection
from bigscale.metrics.reference import Reference
from bigscale.spec import SpecError
from bigscale.spec.scores import CLASSIFIER, column

_log = logging.getLogger(__name__)


class Panel(NamedTuple):
  """A network, its reference, and the scores computed from them.

  Attributes:
    network: network that embeds images.
    reference: the network's features of the reals, floors and baselines.
    kinds: kinds of scores.
    feature: feature name that the network was opened by.
  """

  network: Features
  reference: Reference
  kinds: tuple[str, ...]
  feature: str

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the panel's scores."""
    return tuple(column(kind, self.network.name) for kind in self.kinds)

  def without(self, names: Collection[str]) -> "Panel":
    """Returns the panel without the named scores."""
    kinds = zip(self.kinds, self.names, strict=True)
    left = tuple(kind for kind, name in kinds if name not in names)
    return self._replace(kinds=left)


class Scored(NamedTuple):
  """Scores of one evaluation, and the reasons why others are missing.

  Attributes:
    scores: values by column.
    failed: by score name, why it could not be computed. `scores` contains none
      of its columns.
  """

  scores: dict[str, float]
  failed: Mapping[str, str] = {}


def why(error: Exception) -> str:
  """Returns an error as one line; logs the traceback of unexpected errors."""
  if isinstance(error, SpecError):
    return str(error)
  _log.error("a score failed", exc_info=error)
  lines = str(error).strip().splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:300]}".removesuffix(": ")


class Evaluator:
  """Scores samples of one source at one resolution.

  Attributes:
    reference: JSON values that are the same for every evaluation: the floors
      and baselines of `bigscale.metrics.reference`, the counts, the `protocol`,
      and, with a classifier, its held-out accuracy as `classifier_accuracy`.
      That accuracy covers all classes of the source even if the run trains on
      a subset of them.
    asked: the networks and sample counts of the evaluation.
    panels: networks, reals and scores.
    failed: by score name, why it cannot be computed for any samples.
    throughput: JSON values of the latest evaluation: `seconds` and
      `images_per_second` of `drawing` samples and of each network's embedding
      (`bigscale.metrics.pace`), and `seconds` of the `scoring` after them.
  """

  def __init__(
    self,
    panels: Sequence[Panel],
    class_names: tuple[str, ...],
    reference: dict[str, Any],
    *,
    conditional: bool,
    num_samples: int,
    pixels: Sequence[ImageSelection] = (),
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
    """Returns the label to condition each sample on.

    Args:
      seed: seed of the order of the labels.

    Returns:
      [num_samples] int32; None if samples are not conditioned on a class.
    """
    return labels_of(self.asked.class_counts, seed)

  def score(
    self, sample_batches: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> dict[str, float]:
    """Scores the first `num_samples` samples.

    Args:
      sample_batches: pairs of images [N, R, R, C] uint8 and labels [N] int32
        (ignored for an unconditional model), with any N. No batch is requested
        after the last one needed.

    Returns:
      The columns of the requested scores (`bigscale.spec.scores`); compare
      them with those of `reference`. With a classifier also:

      classes_present: number of classes that are predicted, with probability
        0.5 or more, for at least a tenth of the samples expected from their
        share among the reals.
      label_agreement: share of samples classified as the label that they are
        conditioned on; near `classifier_accuracy` for reals. Only for
        conditional models.
      class_share/NAME: share of samples classified as NAME; the shares sum to
        1. Only with up to 100 classes.

    Raises:
      SpecError: a score cannot be computed, there are too few samples, or
        samples have another shape or dtype. `scored` still returns the scores
        that can be computed.
    """
    found = self.scored(sample_batches)
    for name, reason in found.failed.items():
      raise SpecError(f"{name} could not be computed: {reason}")
    return found.scores

  def scored(
    self, sample_batches: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> Scored:
    """Returns the same scores as `score`, and continues after a failure."""
    return self.compare(look(self.asked, sample_batches))

  def compare(self, looked: Looked) -> Scored:
    """Scores collected samples; a failed score does not stop the others."""
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
  """Returns, by network name, everything that its scores depend on."""
  return {
    panel.network.name: {
      **panel.network.protocol,
      "fingerprint": panel.network.fingerprint,
    }
    for panel in panels
  }
