"""Looks at samples through networks, and keeps what scores need of them.

All processes of a training look together, at the same samples: their devices
share the work (`metrics.share`). What was seen is compared by process 0 alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from bigscale.metrics.features import Embedding, Features, Seen
from bigscale.metrics.pace import Pace
from bigscale.metrics.panel import Collector
from bigscale.metrics.pixels import ImageKeeper, Keeping
from bigscale.parallel import interruption
from bigscale.spec import SpecError
from bigscale.spec.scores import CLASSIFIER

# A prediction counts towards a class's presence from this probability on, and
# a class is present from this share of its share among the reals.
CONFIDENT = 0.5
PRESENT_SHARE = 0.1
# Of classes whose shares are told, each in a column of its own.
_MOST_SHARES = 100


class Asked(NamedTuple):
  """What samples are looked at with, and for.

  Attributes:
    networks: embed them.
    kinds: of scores to be made of each network's features.
    num_samples: looked at.
    num_classes: of the classifier, if there is one.
    pixels: samples that are kept for scores over pixels.
    class_counts: samples to draw of each class, which sum to `num_samples`;
      () where samples are not drawn for a class.
    features: by which each of the networks was opened, for other processes; ()
      takes the networks' own names.
  """

  networks: tuple[Features, ...]
  kinds: tuple[tuple[str, ...], ...]
  num_samples: int
  num_classes: int
  pixels: tuple[Keeping, ...] = ()
  class_counts: tuple[int, ...] = ()
  features: tuple[str, ...] = ()


class Tally:
  """Counts what a classifier takes samples for."""

  def __init__(self, num_classes: int) -> None:
    self._predicted = np.zeros(num_classes, np.int64)
    self._confident = np.zeros(num_classes, np.int64)
    self._agreed = 0

  def add(self, embedding: Embedding, labels: np.ndarray) -> None:
    """Takes a batch and the labels [N] it was drawn for."""
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
    """What `Evaluator.score` tells of classes.

    Args:
      label_counts: [K] of the reals.
      class_names: K of them.
      conditional: whether the samples were asked for by label.
    """
    count = int(self._predicted.sum())
    expected = count * label_counts / label_counts.sum()
    present = self._confident >= np.maximum(PRESENT_SHARE * expected, 1)
    found = {"classes_present": float(present.sum())}
    if conditional:
      found["label_agreement"] = self._agreed / count
    if len(class_names) > _MOST_SHARES:
      return found
    shares = zip(class_names, self._predicted, strict=True)
    return found | {f"class_share/{n}": float(c / count) for n, c in shares}


class Looked(NamedTuple):
  """What was seen.

  Attributes:
    seen: by each network.
    tally: of the classifier's predictions, empty where there is none.
    kept: by kind of scores over pixels, the samples, or why they could not be
      kept.
    throughput: by what was done, see `metrics.pace`.
    failed: by network, why it has not seen all of them.
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
  """Looks at the first `num_samples` samples.

  A network that fails, on features that are not finite, say, leaves the others
  as they are.

  Args:
    asked: with what.
    sample_batches: pairs of images [N, R, R, C] uint8 and labels [N] int32,
      of any N. No batch is asked for beyond the last one needed.
    or_fewer: whether fewer samples than were asked for are enough.

  Raises:
    SpecError: there are fewer samples than that.
  """
  tally = Tally(asked.num_classes)
  looks = [
    _Look(network, kinds, tally)
    for network, kinds in zip(asked.networks, asked.kinds, strict=True)
  ]
  kept: dict[str, ImageKeeper | Exception] = {
    keeping.kind: ImageKeeper(keeping) for keeping in asked.pixels
  }
  drawing = Pace()
  batches = drawing.over(_first(sample_batches, asked.num_samples, or_fewer))
  for images, labels in batches:
    # On each of several processes as often.
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


class _Look:
  """One network's look at samples.

  Attributes:
    network: that looks.
    pace: of its embedding.
    failed: why it has not seen all samples; None where it has.
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
    """Takes a batch and the labels [N] it was drawn for."""
    # Of several processes each goes on embedding, for the others do: their
    # devices share every batch, and would wait for it.
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
    """All of it."""
    return self._collector.seen()


def _first(
  sample_batches: Iterable[tuple[np.ndarray, np.ndarray]],
  num_samples: int,
  or_fewer: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Batches that make exactly `num_samples`; the last one is cut."""
  missing = num_samples
  for images, labels in sample_batches:
    if len(images) != len(labels):
      raise SpecError(
        f"a batch has {len(images)} images and {len(labels)} labels; give "
        "each image one label (any label where the model takes none)"
      )
    yield images[:missing], labels[:missing]
    missing -= min(missing, len(images))
    if missing == 0:
      return
  if or_fewer:
    return
  raise SpecError(
    f"{num_samples - missing} samples were given, but this score takes "
    f"{num_samples}, as many as its baselines; sample more or lower "
    "evaluate.num_samples"
  )
