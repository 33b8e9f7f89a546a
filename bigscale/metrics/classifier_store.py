"""Trains the classifier of a data source, or reads it from the cache."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import reading
from bigscale.data.reading import LabelledImages, Reader
from bigscale.data.sources import Source
from bigscale.metrics import cache
from bigscale.metrics.classifier import (
  VERSION,
  Classifier,
  check_side,
  default_steps,
  train_classifier,
)
from bigscale.parallel import interruption
from bigscale.spec import require

# More images would take longer and hardly improve the features.
_MAX_IMAGES = 60_000

_log = logging.getLogger(__name__)


class TrainedClassifier(NamedTuple):
  """A classifier and its accuracy on held-out images."""

  classifier: Classifier
  accuracy: float


def load_or_train(
  train: Source,
  heldout: Source,
  *,
  resolution: int,
  channels: int,
  seed: int,
  cache_dir: str | None = None,
  steps: int | None = None,
  max_bad: Callable[[int], int] | None = None,
) -> TrainedClassifier:
  """Returns the classifier of a data source, from the cache if it is there.

  Args:
    train: split to train on.
    heldout: split to measure the accuracy on.
    resolution: height and width of its input images, pixels.
    channels: 1 or 3.
    seed: seed of the training.
    cache_dir: cache directory; None uses $BIGSCALE_CACHE, or ~/.cache/bigscale
      if that is not set. If it is not writable, a warning is logged.
    steps: see `train_classifier`.
    max_bad: maps a number of records to how many of them may be unusable;
      None allows any number.

  Raises:
    SpecError: the source has no labels, or only one class.
    DataError: the source cannot be read, or too many of its records are
      unusable.
  """
  check_source(train, resolution)
  shape = (resolution, resolution, channels)
  content = fingerprint(train, heldout, shape, seed, steps)
  path = cache.path_of(cache_dir, "classifier", name_of(train, shape), content)
  trained = _load(path, train.num_classes, shape)
  if trained is not None:
    return trained
  _log.info("training the classifier of %s once; it will be cached", train)
  start = time.monotonic()
  images, labels = _read(train, shape, seed, max_bad)
  classifier = train_classifier(
    images, labels, train.num_classes, seed=seed, steps=content["steps"]
  )
  unseen = _read(heldout, shape, seed, max_bad)
  accuracy = classifier.accuracy(*unseen)
  _log.info(
    "classifier trained in %.0f s: accuracy %.3f on %d held-out images",
    time.monotonic() - start,
    accuracy,
    len(unseen.images),
  )
  arrays = {"accuracy": np.float64(accuracy), **classifier.to_arrays()}
  cache.write(path, arrays)
  return TrainedClassifier(classifier, accuracy)


def check_source(train: Source, resolution: int) -> None:
  """Raises `SpecError` if no classifier can be trained on a source.

  Args:
    train: train split of the source.
    resolution: height and width of the classifier's input images, pixels.
  """
  require(
    train.num_classes >= 2,
    f"{train!r} has {train.num_classes} classes, but the Fréchet "
    "classifier distance learns its features from the labels of at least 2; "
    "build the data set with class names and labels",
  )
  require(
    len(train) >= 2,
    f"{train!r} has {len(train)} images, but a classifier needs 2 or more; add "
    "images",
  )
  check_side(resolution)


def fingerprint(
  train: Source,
  heldout: Source,
  image_shape: tuple[int, int, int],
  seed: int,
  steps: int | None,
) -> dict[str, Any]:
  """Returns all that the features and accuracy depend on, as JSON values."""
  used = min(len(train), _MAX_IMAGES)
  return {
    "classifier_version": VERSION,
    "reading_version": reading.VERSION,
    "train": train.identity,
    "heldout": heldout.identity,
    "image_shape": list(image_shape),
    "seed": seed,
    "steps": default_steps(used) if steps is None else steps,
  }


def name_of(train: Source, image_shape: tuple[int, int, int]) -> str:
  """Returns a readable name for the cache file of a source."""
  return f"{train.name.split('/')[0]} {image_shape[0]}x{image_shape[2]}"


def _load(
  path: str, num_classes: int, image_shape: tuple[int, int, int]
) -> TrainedClassifier | None:
  arrays = cache.read(path)
  if arrays is None:
    return None
  try:
    classifier = Classifier.from_arrays(arrays, num_classes, image_shape)
    return TrainedClassifier(classifier, float(arrays["accuracy"]))
  except (KeyError, ValueError, TypeError) as error:
    cache.discard(path, str(error))
    return None


def _read(
  source: Source,
  image_shape: tuple[int, int, int],
  seed: int,
  max_bad: Callable[[int], int] | None,
) -> LabelledImages:
  indices = np.arange(len(source))
  if len(indices) > _MAX_IMAGES:
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(indices, _MAX_IMAGES, replace=False))
  reader = Reader(source, image_shape, max_bad and max_bad(len(indices)))
  images = np.empty((len(indices), *image_shape), np.uint8)
  labels = np.empty(len(indices), np.int32)
  count = 0
  for some in reader.chunks(indices):
    interruption.point()
    rows = slice(count, count + len(some.images))
    images[rows], labels[rows] = some
    count = rows.stop
  return LabelledImages(images[:count], labels[:count])
