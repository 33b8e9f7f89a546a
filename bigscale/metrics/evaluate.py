"""Scores samples against a data source, by whatever networks are asked for.

Who samples, with which weights and on which devices, is the caller's matter:
an `Evaluator` takes batches of uint8 images with the labels asked for.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data.reading import open_data
from bigscale.data.sources import Source
from bigscale.metrics.classifier_store import load_or_train
from bigscale.metrics.features import Embedding, Features
from bigscale.metrics.panel import Collector, compare
from bigscale.metrics.reference import Reference, Request, load_or_compute
from bigscale.spec import DataSpec, SpecError, require
from bigscale.spec.scores import Score, column

# A prediction counts towards a class's presence from this probability on, and
# a class is present from this share of its share among the reals.
CONFIDENT = 0.5
PRESENT_SHARE = 0.1

# Of EfficientNet-Lite0's input: half of what it was trained at costs a fifth.
_EFFLITE0_SIDE = 96

_log = logging.getLogger(__name__)


class Panel(NamedTuple):
  """A network, what it makes of the reals, and the scores asked of both."""

  network: Features
  reference: Reference
  kinds: tuple[str, ...]


class Evaluator:
  """Scores samples of one source at one size.

  Attributes:
    reference: JSON values, the same at every score: the floors and baselines
      of `bigscale.metrics.reference`, the counts, the `protocol`, and
      `classifier_accuracy` on the held-out split where there is a classifier.
  """

  def __init__(
    self,
    panels: Sequence[Panel],
    class_names: tuple[str, ...],
    reference: dict[str, Any],
    *,
    conditional: bool,
    num_samples: int,
  ) -> None:
    self.reference = reference
    self._panels = tuple(panels)
    self._class_names = class_names
    self._conditional = conditional
    self._num_samples = num_samples

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

    Raises:
      SpecError: there are fewer samples, or of another shape or type.
    """
    collectors = [Collector(p.network, p.kinds) for p in self._panels]
    tallies = [
      _Tally(len(self._class_names)) if p.network.name == "classifier" else None
      for p in self._panels
    ]
    for images, labels in _first(sample_batches, self._num_samples):
      for collector, tally in zip(collectors, tallies, strict=True):
        embedding = collector.add(images, labels)
        if tally:
          tally.add(embedding, labels)
    scores: dict[str, float] = {}
    for panel, collector, tally in zip(
      self._panels, collectors, tallies, strict=True
    ):
      name, reals = panel.network.name, panel.reference.reals
      scores |= compare(
        collector.seen(), reals, panel.kinds, name, self._class_names
      )
      if tally:
        scores |= tally.scores(
          panel.reference.label_counts, self._class_names, self._conditional
        )
    return scores


class _Tally:
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
    """See `Evaluator.score`."""
    count = int(self._predicted.sum())
    expected = count * label_counts / label_counts.sum()
    present = self._confident >= np.maximum(PRESENT_SHARE * expected, 1)
    found = {"classes_present": float(present.sum())}
    if conditional:
      found["label_agreement"] = self._agreed / count
    shares = zip(class_names, self._predicted, strict=True)
    return found | {f"class_share/{n}": float(c / count) for n, c in shares}


def make_evaluator(
  data: DataSpec,
  *,
  resolution: int,
  channels: int,
  num_classes: int,
  num_samples: int,
  scores: Sequence[str] = ("fd_classifier",),
  num_reals: int = 0,
  seed: int = 0,
  cache_dir: str | None = None,
  classifier_steps: int | None = None,
) -> Evaluator:
  """Opens the networks and measures the reals.

  Args:
    data: of the run; for scores of the classifier with labels, also for
      unconditional models.
    resolution: side of the samples, pixels.
    channels: 1 or 3.
    num_classes: of the model, 0 if it is unconditional.
    num_samples: images that each score takes.
    scores: names, see `bigscale.spec.scores`.
    num_reals: train records to compare with; 0 takes all.
    seed: of the classifier, the halves and the baselines.
    cache_dir: None takes $BIGSCALE_CACHE, else ~/.cache/bigscale.
    classifier_steps: None trains as long as `train_classifier` advises; fewer
      give other features, so scores that compare with no others.

  Raises:
    SpecError: a score is unknown or its network's weights are missing, the
      source has no labels or other classes than the model, or there are too
      few images or samples.
    DataError: the source cannot be read.
  """
  train, heldout = open_data(data, "train"), open_data(data, "heldout")
  _check_classes(train, num_classes)
  shape = (resolution, resolution, channels)
  reference: dict[str, Any] = {}

  def network(feature: str) -> Features:
    if feature != "classifier":
      return _open(feature, cache_dir)
    trained = load_or_train(
      train,
      heldout,
      resolution=resolution,
      channels=channels,
      seed=seed,
      cache_dir=cache_dir,
      steps=classifier_steps,
    )
    reference["classifier_accuracy"] = trained.accuracy
    return trained.classifier

  panels = []
  for feature, kinds in _by_feature(scores).items():
    opened = network(feature)
    request = Request(kinds, shape, num_samples, num_reals, seed)
    reals = load_or_compute(opened, train, heldout, request, cache_dir)
    panels.append(Panel(opened, reals, kinds))
    _warn_if_blind(feature, reals)
  reference |= _describe(panels, train, heldout, num_samples, seed)
  return Evaluator(
    panels,
    train.class_names,
    reference,
    conditional=num_classes > 0,
    num_samples=num_samples,
  )


def _check_classes(train: Source, num_classes: int) -> None:
  require(
    num_classes in (0, train.num_classes),
    f"model.num_classes={num_classes}, but {train!r} has "
    f"{train.num_classes} classes; use {train.num_classes}, or 0 for a model "
    "without labels",
  )


def _by_feature(scores: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Kinds of scores asked of each network."""
  found: dict[str, tuple[str, ...]] = {}
  for score in map(Score.parse, scores):
    found[score.feature] = (*found.get(score.feature, ()), score.kind)
  return found


def _open(feature: str, cache_dir: str | None) -> Features:
  """A network whose weights others have trained."""
  if feature == "inception":
    from bigscale.metrics import inception, inception_store

    return inception.Inception(inception_store.load(cache_dir=cache_dir))
  from bigscale.metrics import efficientnet, efficientnet_store

  return efficientnet.EfficientNetLite0(
    efficientnet_store.load(), side=_EFFLITE0_SIDE
  )


def _warn_if_blind(name: str, reals: Reference) -> None:
  distance = column("fd", name)
  floor = reals.distances.get(f"{distance}_floor")
  baselines = [
    reals.distances.get(f"{distance}_{baseline}", np.inf)
    for baseline in ("class_means_noise", "blurred_reals")
  ]
  if floor is not None and floor >= min(baselines):
    _log.warning(
      "%s puts held-out reals no nearer to the train split than a baseline: "
      "%s; its distances say little here",
      name,
      reals.distances,
    )


def _describe(
  panels: Sequence[Panel],
  train: Source,
  heldout: Source,
  num_samples: int,
  seed: int,
) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for panel in panels:
    found |= panel.reference.distances
  return found | {
    "num_classes": train.num_classes,
    "num_samples": num_samples,
    "num_train": panels[0].reference.reals.moments.count,
    "num_heldout": len(heldout),
    "protocol": {
      "networks": {
        panel.network.name: {
          **panel.network.protocol,
          "fingerprint": panel.network.fingerprint,
        }
        for panel in panels
      },
      "reference_split": "train",
      "confident": CONFIDENT,
      "present_share": PRESENT_SHARE,
      "train": train.identity,
      "heldout": heldout.identity,
      "seed": seed,
    },
  }


def _first(
  sample_batches: Iterable[tuple[np.ndarray, np.ndarray]], num_samples: int
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
  raise SpecError(
    f"{num_samples - missing} samples were given, but this score takes "
    f"{num_samples}, as many as its baselines; sample more or lower "
    "evaluate.num_samples"
  )
