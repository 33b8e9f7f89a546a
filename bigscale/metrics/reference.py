"""What samples are scored against: moments of the reals, floor and baselines.

Every distance is to the moments of the whole train split, all of it, with
images fitted as for training and not mirrored.

*   `fd_classifier_floor`: the held-out reals. A distance of few images is too
    large by about a constant over their number, and the classifier has seen
    the train split and not these: a generator can come below this floor.
*   `fd_classifier_floor_halves`: one random half of the train split against
    the other; both effects are gone but for the bias of the halves' size.
*   `fd_class_means_noise`, `fd_blurred_reals`: what a generator that has
    learned no more than each class's mean and spread of every pixel, or
    nothing finer than a blur, would get with as many samples.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bigscale.data.reading import read_many
from bigscale.data.sources import Source
from bigscale.metrics import cache
from bigscale.metrics.classifier import FEATURES, Classifier
from bigscale.metrics.classifier_store import name_of
from bigscale.metrics.fid import Moments, frechet_distance, require_enough

VERSION = 1
# A sixteenth of the side: 1 px at 16 px, 2 px at 32 px.
BLUR_SIGMA_PER_PIXEL = 1 / 16

_CHUNK = 250
_DISTANCES = (
  "fd_classifier_floor",
  "fd_classifier_floor_halves",
  "fd_class_means_noise",
  "fd_blurred_reals",
)


class Reference(NamedTuple):
  """Of one source and classifier.

  Attributes:
    moments: of the features of the train split.
    label_counts: [K] int64, train records of each class.
    distances: floors and baselines, named as in the module's docstring.
  """

  moments: Moments
  label_counts: np.ndarray
  distances: dict[str, float]


class _Reals(NamedTuple):
  """One pass over the train split.

  Attributes:
    halves: moments of the two halves.
    counts: [K] int64.
    mean: [K, R, R, C] float64, mean image of each class.
    std: [K, R, R, C] float64, spread of each pixel within the class.
  """

  halves: list[Moments]
  counts: np.ndarray
  mean: np.ndarray
  std: np.ndarray


def load_or_compute(
  classifier: Classifier,
  train: Source,
  heldout: Source,
  *,
  num_samples: int,
  seed: int,
  cache_dir: str | None = None,
) -> Reference:
  """The reference of a source, from the cache where it lies there.

  Args:
    classifier: gives the features, and the size of the images.
    train: split to compare with.
    heldout: split for the floor.
    num_samples: images in each baseline: as many as will be scored.
    seed: of the halves and the baselines.
    cache_dir: see `bigscale.metrics.cache.directory`.

  Raises:
    SpecError: a split, or num_samples, is too small for the features.
  """
  _check_counts(train, heldout, num_samples)
  content = {
    "reference_version": VERSION,
    # Of the weights, not of how they came about: other weights, other moments.
    "classifier": _digest(classifier),
    "train": train.identity,
    "heldout": heldout.identity,
    "num_samples": num_samples,
    "seed": seed,
  }
  label = name_of(train, classifier.image_shape)
  path = cache.path_of(cache_dir, "reference", label, content)
  arrays = cache.read(path)
  if arrays is not None:
    try:
      return _unpack(arrays, train.num_classes)
    except (KeyError, ValueError, TypeError) as error:
      cache.discard(path, str(error))
  reference = _compute(classifier, train, heldout, num_samples, seed)
  cache.write(path, _pack(reference))
  return reference


def _check_counts(train: Source, heldout: Source, num_samples: int) -> None:
  require_enough(
    num_samples, FEATURES, "evaluate.num_samples", "raise evaluate.num_samples"
  )
  require_enough(
    len(heldout), FEATURES, "the held-out split", "hold out more records"
  )
  require_enough(
    len(train) // 2, FEATURES, "half of the train split", "use a larger set"
  )


def _compute(
  classifier: Classifier,
  train: Source,
  heldout: Source,
  num_samples: int,
  seed: int,
) -> Reference:
  reals = _read_reals(classifier, train, seed)
  moments = reals.halves[0].merge(reals.halves[1])
  # Both baselines stand for the same draw of reals.
  rng = np.random.default_rng((seed, 1))
  drawn = rng.choice(len(train), num_samples, replace=num_samples > len(train))

  def noise(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    draw = rng.normal(reals.mean[labels], reals.std[labels], images.shape)
    return _to_uint8(draw)

  def distance(source: Source, rows: np.ndarray, change: _Change) -> float:
    scored = Moments.empty(FEATURES)
    for images, labels in _chunks(source, rows, classifier.image_shape):
      scored = scored.update(classifier.features(change(images, labels)))
    return frechet_distance(scored, moments)

  everything = np.arange(len(heldout))
  distances = (
    distance(heldout, everything, lambda images, labels: images),
    frechet_distance(*reals.halves),
    distance(train, drawn, noise),
    distance(train, drawn, lambda images, labels: blur(images)),
  )
  named = dict(zip(_DISTANCES, distances, strict=True))
  return Reference(moments, reals.counts, named)


_Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blur(images_bhwc: np.ndarray) -> np.ndarray:
  """Gaussian blur of uint8 images, sigma a sixteenth of their side."""
  from scipy import ndimage

  sigma = images_bhwc.shape[1] * BLUR_SIGMA_PER_PIXEL
  blurred = ndimage.gaussian_filter(
    images_bhwc.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"
  )
  return _to_uint8(blurred)


def _read_reals(classifier: Classifier, train: Source, seed: int) -> _Reals:
  shape = (train.num_classes, *classifier.image_shape)
  counts = np.zeros(train.num_classes, np.int64)
  totals, squares = np.zeros(shape), np.zeros(shape)
  halves = []
  # Records may lie sorted by class: cut a shuffled order.
  order = np.random.default_rng((seed, 0)).permutation(len(train))
  for rows in np.array_split(order, 2):
    moments = Moments.empty(FEATURES)
    for images, labels in _chunks(train, np.sort(rows), classifier.image_shape):
      moments = moments.update(classifier.features(images))
      counts += np.bincount(labels, minlength=len(counts))
      np.add.at(totals, labels, images)
      np.add.at(squares, labels, images.astype(np.float64) ** 2)
    halves.append(moments)
  mean = totals / np.maximum(counts, 1)[:, None, None, None]
  variance = squares / np.maximum(counts, 1)[:, None, None, None] - mean**2
  return _Reals(halves, counts, mean, np.sqrt(np.maximum(variance, 0)))


def _chunks(
  source: Source, rows: np.ndarray, image_shape: tuple[int, int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  for start in range(0, len(rows), _CHUNK):
    some = rows[start : start + _CHUNK]
    yield read_many(source, some, image_shape[0], image_shape[2])


def _to_uint8(images: np.ndarray) -> np.ndarray:
  return np.clip(np.round(images), 0, 255).astype(np.uint8)


def _digest(classifier: Classifier) -> str:
  digest = hashlib.sha256()
  for name, value in sorted(classifier.to_arrays().items()):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()[:16]


def _pack(reference: Reference) -> dict[str, np.ndarray]:
  return {
    "count": np.int64(reference.moments.count),
    "mean": reference.moments.mean,
    "covariance": reference.moments.covariance,
    "label_counts": reference.label_counts,
    **{name: np.float64(reference.distances[name]) for name in _DISTANCES},
  }


def _unpack(arrays: dict[str, np.ndarray], num_classes: int) -> Reference:
  """Raises `KeyError` or `ValueError` where these are not a reference's."""
  moments = Moments(int(arrays["count"]), arrays["mean"], arrays["covariance"])
  shapes = moments.mean.shape, moments.covariance.shape
  if shapes != ((FEATURES,), (FEATURES, FEATURES)):
    raise ValueError(f"moments have shapes {shapes}")
  counts = arrays["label_counts"]
  if counts.shape != (num_classes,):
    raise ValueError(f"label_counts has shape {counts.shape}")
  distances = {name: float(arrays[name]) for name in _DISTANCES}
  return Reference(moments, counts, distances)
