"""Scores samples with the classifier of the data source.

Who samples, with which weights and on which devices, is the caller's matter:
an `Evaluator` takes batches of uint8 images with the labels asked for.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bigscale.data.reading import open_data
from bigscale.metrics import classifier as classifiers
from bigscale.metrics.classifier import FEATURES, Classifier
from bigscale.metrics.classifier_store import Trained, load_or_train
from bigscale.metrics.fid import Moments, frechet_distance
from bigscale.metrics.reference import Reference, load_or_compute
from bigscale.spec import DataSpec, SpecError, require

# A prediction counts towards a class's presence from this probability on, and
# a class is present from this share of its share among the reals.
CONFIDENT = 0.5
PRESENT_SHARE = 0.1

_log = logging.getLogger(__name__)


class Evaluator:
  """Scores samples of one source at one size.

  Attributes:
    reference: JSON values, the same at every score: `classifier_accuracy` on
      the held-out split, the floors and baselines of
      `bigscale.metrics.reference`, the counts and the `protocol`.
  """

  def __init__(
    self,
    classifier: Classifier,
    reals: Reference,
    class_names: tuple[str, ...],
    reference: dict[str, Any],
    *,
    conditional: bool,
    num_samples: int,
  ) -> None:
    self.reference = reference
    self._classifier = classifier
    self._reals = reals
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
      fd_classifier: Fréchet distance of the classifier's features to those of
        the train split; compare it with `reference`.
      classes_present: classes with at least a tenth of their share among the
        reals in predictions of probability 0.5 or more.
      label_agreement: share of samples classified as the label they were
        asked for; near `classifier_accuracy` for reals. Only of conditional
        models.
      class_share/NAME: share of samples classified as NAME; they add up to 1.

    Raises:
      SpecError: there are fewer samples, or of another shape or type.
    """
    moments = Moments.empty(FEATURES)
    predicted = np.zeros(len(self._class_names), np.int64)
    confident = np.zeros(len(self._class_names), np.int64)
    agreed = 0
    for images, labels in _first(sample_batches, self._num_samples):
      embedding = self._classifier.embed(images)
      moments = moments.update(embedding.features)
      classes = embedding.probabilities.argmax(-1)
      predicted += np.bincount(classes, minlength=len(predicted))
      confident += _count_confident(embedding.probabilities)
      agreed += int((classes == labels).sum()) if self._conditional else 0
    present = _count_present(confident, moments.count, self._reals.label_counts)
    scores = {
      "fd_classifier": frechet_distance(moments, self._reals.moments),
      "classes_present": float(present),
    }
    if self._conditional:
      scores["label_agreement"] = agreed / moments.count
    for name, count in zip(self._class_names, predicted, strict=True):
      scores[f"class_share/{name}"] = float(count / moments.count)
    return scores


def make_evaluator(
  data: DataSpec,
  *,
  resolution: int,
  channels: int,
  num_classes: int,
  num_samples: int,
  seed: int = 0,
  cache_dir: str | None = None,
  classifier_steps: int | None = None,
) -> Evaluator:
  """Trains or loads the classifier and measures the reals.

  Args:
    data: of the run; with labels, also for unconditional models.
    resolution: side of the samples, pixels.
    channels: 1 or 3.
    num_classes: of the model, 0 if it is unconditional.
    num_samples: images that each score takes.
    seed: of the classifier, the halves and the baselines.
    cache_dir: None takes $BIGSCALE_CACHE, else ~/.cache/bigscale.
    classifier_steps: None trains as long as `train_classifier` advises; fewer
      give other features, so scores that compare with no others.

  Raises:
    SpecError: the source has no labels or other classes than the model, or
      there are too few images or samples.
    DataError: the source cannot be read.
  """
  train, heldout = open_data(data, "train"), open_data(data, "heldout")
  require(
    num_classes in (0, train.num_classes),
    f"model.num_classes={num_classes}, but {train!r} has "
    f"{train.num_classes} classes; use {train.num_classes}, or 0 for a model "
    "without labels",
  )
  trained = load_or_train(
    train,
    heldout,
    resolution=resolution,
    channels=channels,
    seed=seed,
    cache_dir=cache_dir,
    steps=classifier_steps,
  )
  reals = load_or_compute(
    trained.classifier,
    train,
    heldout,
    num_samples=num_samples,
    seed=seed,
    cache_dir=cache_dir,
  )
  reference = _describe(trained, reals, num_samples, len(heldout))
  reference["protocol"] |= {
    "train": train.identity,
    "heldout": heldout.identity,
    "seed": seed,
  }
  return Evaluator(
    trained.classifier,
    reals,
    train.class_names,
    reference,
    conditional=num_classes > 0,
    num_samples=num_samples,
  )


def _describe(
  trained: Trained, reals: Reference, num_samples: int, num_heldout: int
) -> dict[str, Any]:
  distances = reals.distances
  baselines = [distances["fd_class_means_noise"], distances["fd_blurred_reals"]]
  if distances["fd_classifier_floor"] >= min(baselines):
    _log.warning(
      "the classifier (held-out accuracy %.2f) puts held-out reals no nearer "
      "to the train split than a baseline: %s; its distances say little here",
      trained.accuracy,
      distances,
    )
  height, width, channels = trained.classifier.image_shape
  return {
    "classifier_accuracy": trained.accuracy,
    **distances,
    "num_classes": len(reals.label_counts),
    "num_samples": num_samples,
    "num_train": reals.moments.count,
    "num_heldout": num_heldout,
    "protocol": {
      "feature": f"classifier_v{classifiers.VERSION}",
      "feature_length": FEATURES,
      "reference_split": "train",
      "resize": f"transforms.fit to {height}x{width}x{channels}, uint8",
      "confident": CONFIDENT,
      "present_share": PRESENT_SHARE,
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


def _count_confident(probabilities: np.ndarray) -> np.ndarray:
  """[K] int64: rows of [N, K] whose largest value is K's and confident."""
  sure = probabilities.max(-1) >= CONFIDENT
  classes = probabilities[sure].argmax(-1)
  return np.bincount(classes, minlength=probabilities.shape[-1])


def _count_present(
  confident: np.ndarray, count: int, label_counts: np.ndarray
) -> int:
  """Classes with enough confident predictions among `count` samples."""
  expected = count * label_counts / label_counts.sum()
  return int((confident >= np.maximum(PRESENT_SHARE * expected, 1)).sum())
