"""Embeds samples with feature networks and collects the inputs of the scores.

All processes of a run embed the same samples together, so that their devices
share the work (`metrics.share`). Only process 0 computes scores.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from bigscale.metrics.features import Embedding, Features, Seen
from bigscale.metrics.pace import Pace
from bigscale.metrics.panel import Collector
from bigscale.metrics.pixels import ImageKeeper, ImageSelection
from bigscale.parallel import interruption
from bigscale.spec import SpecError
from bigscale.spec.scores import CLASSIFIER

# A prediction counts toward the presence of its class if its probability is at
# least CONFIDENT. A class is present if it has at least
# PRESENT_SHARE of the predictions expected from its share among the reals.
CONFIDENT = 0.5
PRESENT_SHARE = 0.1
# Maximum number of classes for which `class_share` columns are reported.
_MAX_SHARES = 100


class Asked(NamedTuple):
  """The networks and sample counts of one evaluation.

  Attributes:
    networks: networks that embed the samples.
    kinds: for each network, the kinds of scores to compute from its features.
    num_samples: number of samples to embed.
    num_classes: number of classes of the classifier, if there is one.
    pixels: for each score over pixels, which samples to keep.
    class_counts: number of samples per class, which sum to `num_samples`; () if
      samples are not conditioned on a class.
    features: the feature name that each network was opened by, from which other
      processes rebuild it; () uses the networks' own names.
  """

  networks: tuple[Features, ...]
  kinds: tuple[tuple[str, ...], ...]
  num_samples: int
  num_classes: int
  pixels: tuple[ImageSelection, ...] = ()
  class_counts: tuple[int, ...] = ()
  features: tuple[str, ...] = ()


class Tally:
  """Counts the classes that a classifier predicts for samples."""

  def __init__(self, num_classes: int) -> None:
    self._predicted = np.zeros(num_classes, np.int64)
    self._confident = np.zeros(num_classes, np.int64)
    self._agreed = 0

  def add(self, embedding: Embedding, labels: np.ndarray) -> None:
    """Adds a batch and the labels [N] that its samples are conditioned on."""
    size = len(self._predicted)
    classes = embedding.probabilities.argmax(-1)
    sure = embedding.probabilities.max(-1) >= CONFIDENT
    self._predicted += np.bincount(classes, minlength=size)
    self._confident += np.bincount(classes[sure], minlength=size)
    self._agreed += int((classes == labels).sum())

  def scores(
    self,
    label_counts: np.ndarray,
    class_names: tuple[str, ...],
    conditional: bool,
  ) -> dict[str, float]:
    """Returns the class scores that `Evaluator.score` documents.

    Args:
      label_counts: [K] number of reals per class.
      class_names: names of the K classes.
      conditional: whether the samples are conditioned on labels.
    """
    count = int(self._predicted.sum())
    expected = count * label_counts / label_counts.sum()
    present = self._confident >= np.maximum(PRESENT_SHARE * expected, 1)
    found = {"classes_present": float(present.sum())}
    if conditional:
      found["label_agreement"] = self._agreed / count
    if len(class_names) > _MAX_SHARES:
      return found
    shares = zip(class_names, self._predicted, strict=True)
    return found | {f"class_share/{n}": float(c / count) for n, c in shares}


class Looked(NamedTuple):
  """The collected inputs of the scores of one set of samples.

  Attributes:
    seen: embeddings of the samples, one entry per network.
    tally: the classifier's predictions; empty without a classifier.
    kept: for each kind of score over pixels, the kept samples, or the exception
      that prevented keeping them.
    throughput: seconds and images per second of each stage, see `metrics.pace`.
    failed: by network name, the exception that stopped its embedding.
  """

  seen: tuple[Seen, ...]
  tally: Tally
  kept: Mapping[str, ImageKeeper | Exception]
  throughput: dict[str, dict[str, float]]
  failed: Mapping[str, Exception] = {}


def look(
  asked: Asked,
  sample_batches: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  or_fewer: bool = False,
) -> Looked:
  """Embeds the first `num_samples` samples.

  If one network fails, for example on features that are not finite, the other
  networks continue.

  Args:
    asked: the networks and the number of samples.
    sample_batches: pairs of images [N, R, R, C] uint8 and labels [N] int32,
      with any N. No batch is requested after the last one needed.
    or_fewer: whether to accept fewer samples than `num_samples`.

  Raises:
    SpecError: there are fewer than `num_samples` samples and `or_fewer` is
      False.
  """
  tally = Tally(asked.num_classes)
  looks = [
    _NetworkPass(network, kinds, tally)
    for network, kinds in zip(asked.networks, asked.kinds, strict=True)
  ]
  kept: dict[str, ImageKeeper | Exception] = {
    selection.kind: ImageKeeper(selection) for selection in asked.pixels
  }
  drawing = Pace()
  batches = drawing.over(_first(sample_batches, asked.num_samples, or_fewer))
  for images, labels in batches:
    # Every process must call this the same number of times.
    interruption.point()
    for each in looks:
      each.add(images, labels)
    for kind, keeper in kept.items():
      if isinstance(keeper, ImageKeeper):
        try:
          keeper.add(images, labels)
        except Exception as error:
          kept[kind] = error
  return Looked(
    tuple(each.seen() for each in looks),
    tally,
    kept,
    {
      "drawing": drawing.summary(),
      **{each.network.name: each.pace.summary() for each in looks},
    },
    {each.network.name: each.failed for each in looks if each.failed},
  )


class _NetworkPass:
  """One network's pass over the samples.

  Attributes:
    network: the network that embeds the samples.
    pace: timing of the embedding.
    failed: the first exception; None if every sample was embedded.
  """

  def __init__(
    self, network: Features, kinds: tuple[str, ...], tally: Tally
  ) -> None:
    self.network = network
    self.pace = Pace()
    self._collector = Collector(network, kinds)
    self._tally = tally if network.name == CLASSIFIER else None
    self.failed: Exception | None = None

  def add(self, images: np.ndarray, labels: np.ndarray) -> None:
    """Adds a batch and the labels [N] that its samples are conditioned on."""
    # With several processes, keep embedding after a failure: the devices of all
    # processes share every batch, so the other processes would wait.
    if self.failed and jax.process_count() == 1:
      return
    try:
      embedding = self.pace.of(len(images), lambda: self.network.embed(images))
      if self.failed:
        return
      self._collector.take(embedding, labels)
      if self._tally:
        self._tally.add(embedding, labels)
    except Exception as error:
      self.failed = self.failed or error

  def seen(self) -> Seen:
    """Returns the embeddings of all batches."""
    return self._collector.seen()


def _first(
  sample_batches: Iterable[tuple[np.ndarray, np.ndarray]],
  num_samples: int,
  or_fewer: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields exactly `num_samples` samples; cuts the last batch to fit."""
  missing = num_samples
  for images, labels in sample_batches:
    if len(images) != len(labels):
      raise SpecError(
        f"a batch has {len(images)} images and {len(labels)} labels; give "
        "one label per image (any label if the model is unconditional)"
      )
    yield images[:missing], labels[:missing]
    missing -= min(missing, len(images))
    if missing == 0:
      return
  if or_fewer:
    return
  raise SpecError(
    f"{num_samples - missing} samples were given, but this score needs "
    f"{num_samples}, the same number as its baselines; generate more samples "
    "or lower evaluate.num_samples"
  )
