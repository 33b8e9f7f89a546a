"""Reference of the scores: features of the reals, floors and baselines.

Scores compare samples with the whole train split, or with as many of its
records as requested. Images are resized as in training, but not mirrored. The
reference has these values, where NAME is the name of the network:

*   `SCORE_floor`, for every score: the score of the held-out reals, unless
    there are too few of them. A generator can score below this floor for two
    reasons. A distance of few images is too large by about a constant over
    their number, and a classifier of the source was trained on the train split
    but not on the held-out reals.
*   `fd_NAME_floor_halves`: the distance between two random halves of the reals.
    Neither effect applies, except the bias of the halves' size.
*   `fd_NAME_class_means_noise`: the distance of a generator that has learned
    only each class's mean and spread of every pixel, with the same number of
    samples.
*   `fd_NAME_blurred_reals`: the distance of a generator that has learned
    nothing finer than a blur, with the same number of samples.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import reading
from bigscale.data.reading import Reader, check_bad
from bigscale.data.sources import Source
from bigscale.metrics import cache
from bigscale.metrics.features import Features, Seen
from bigscale.metrics.fid import (
  FeatureMoments,
  frechet_distance,
  require_enough,
)
from bigscale.metrics.panel import Collector, floors, of_reals
from bigscale.parallel import interruption
from bigscale.spec import SpecError
from bigscale.spec.scores import column, identity

VERSION = 3
# A sixteenth of the side: 1 px at 16 px, 2 px at 32 px.
BLUR_SIGMA_PER_PIXEL = 1 / 16
# Maximum number of reals whose features are kept: k-NN of more takes hours.
MAX_KEPT = 50_000

# Maps a number of records to how many of them may be unusable.
MaxBad = Callable[[int], int]

_log = logging.getLogger(__name__)


class Request(NamedTuple):
  """The scores to compute a reference for, and their settings.

  Attributes:
    kinds: kinds of scores, see `bigscale.spec.scores`.
    image_shape: (R, R, C) that images are resized to.
    num_samples: number of images in each baseline, the number that is scored.
    num_reals: number of random train records to compare with; 0 uses all.
    seed: seed of the choice of reals, the halves and the baselines.
  """

  kinds: tuple[str, ...]
  image_shape: tuple[int, int, int]
  num_samples: int
  num_reals: int = 0
  seed: int = 0


class Reference(NamedTuple):
  """The reference of one source and network.

  Attributes:
    reals: the network's embeddings of the train split.
    label_counts: [K] float64, number of reals per class. A record with several
      labels adds an equal fraction to each of them.
    distances: floors and baselines, named as in the module's docstring.
    met: by split, JSON values: number of images read, resized or converted, and
      skipped because they are unusable (`Reader.facts`).
  """

  reals: Seen
  label_counts: np.ndarray
  distances: dict[str, float]
  met: dict[str, dict[str, Any]]


def pack(reference: Reference) -> dict[str, np.ndarray]:
  """Returns a reference as arrays; `unpack` is the inverse."""
  reals = reference.reals
  return {
    "count": np.int64(reals.moments.count),
    "mean": reals.moments.mean,
    "covariance": reals.moments.covariance,
    "features": reals.features,
    "probabilities": reals.probabilities,
    "labels": reals.labels,
    "label_counts": reference.label_counts,
    "met": np.array(json.dumps(reference.met)),
    **{
      f"distance/{name}": np.float64(value)
      for name, value in reference.distances.items()
    },
  }


def unpack(
  arrays: dict[str, np.ndarray], num_classes: int, network: Features
) -> Reference:
  """Rebuilds a reference from the arrays of `pack`.

  Args:
    arrays: arrays by name.
    num_classes: number of classes of the source, 1 if it has no labels.
    network: network that the features belong to.

  Raises:
    KeyError, ValueError, TypeError: the arrays do not describe a reference.
  """
  size = network.dimension
  moments = FeatureMoments(
    int(arrays["count"]), arrays["mean"], arrays["covariance"]
  )
  shapes = moments.mean.shape, moments.covariance.shape
  if shapes != ((size,), (size, size)):
    raise ValueError(f"moments have shapes {shapes}")
  seen = Seen(
    moments, arrays["features"], arrays["probabilities"], arrays["labels"]
  )
  kept = max(len(seen.features), len(seen.probabilities))
  if seen.features.shape[1] != size or len(seen.labels) != kept:
    raise ValueError(f"features have shape {seen.features.shape}")
  counts = arrays["label_counts"]
  if counts.shape != (num_classes,):
    raise ValueError(f"label_counts has shape {counts.shape}")
  found = {
    name.removeprefix("distance/"): float(value)
    for name, value in arrays.items()
    if name.startswith("distance/")
  }
  return Reference(seen, counts, found, json.loads(str(arrays["met"])))


class _Reals(NamedTuple):
  """Results of one pass over the train split.

  Attributes:
    seen: embeddings of all reals.
    halves: moments of the two halves.
    reader: reader of the split, with its counts.
    mean: [K, R, R, C] float64, mean image of each class.
    std: [K, R, R, C] float64, standard deviation of each pixel in the class.
  """

  seen: Seen
  halves: tuple[FeatureMoments, FeatureMoments]
  reader: Reader
  mean: np.ndarray
  std: np.ndarray


def load_or_compute(
  network: Features,
  train: Source,
  heldout: Source,
  request: Request,
  cache_dir: str | None = None,
  max_bad: MaxBad | None = None,
) -> Reference:
  """Returns the reference of a source, from the cache if it is there.

  Args:
    network: network that embeds the images.
    train: split to compare with.
    heldout: split for the floors.
    request: the scores and the number of images.
    cache_dir: see `bigscale.metrics.cache.directory`.
    max_bad: maps a number of records to how many of them may be unusable;
      None allows any number.

  Raises:
    DataError: more records than `max_bad` allows are unusable.
    SpecError: too few records are usable for a baseline.
  """
  content = {
    "reference_version": VERSION,
    "reading_version": reading.VERSION,
    # Other weights or another resizing give other features.
    "network": [network.name, network.fingerprint, dict(network.protocol)],
    "train": train.identity,
    "heldout": heldout.identity,
    **request._asdict(),
    "kinds": sorted(map(identity, request.kinds)),
  }
  side, _, channels = request.image_shape
  label = f"{train.name.split('/')[0]} {side}x{channels} {network.name}"
  path = cache.path_of(cache_dir, "reference", label, content)
  arrays = cache.read(path)
  if arrays is not None:
    try:
      reference = unpack(arrays, max(train.num_classes, 1), network)
    except (KeyError, ValueError, TypeError) as error:
      cache.discard(path, str(error))
    else:
      _check_met(reference, train, heldout, max_bad)
      return reference
  reference = _compute(network, train, heldout, request, max_bad)
  cache.write(path, pack(reference))
  return reference


def _check_met(
  reference: Reference,
  train: Source,
  heldout: Source,
  max_bad: MaxBad | None,
) -> None:
  """Repeats the warnings about records that a cached reference skipped."""
  for source, split in ((train, "train"), (heldout, "heldout")):
    met = reference.met[split]
    bad, example = met["unreadable"], met["unreadable_example"]
    if bad:
      allowed = max_bad and max_bad(met["read"] + bad)
      warn_unreadable(source, bad, example, allowed)


def warn_unreadable(
  source: Source, bad: int, example: str, allowed: int | None
) -> None:
  """Warns about skipped records; raises `DataError` if too many."""
  _log.warning(
    "%d records of %r were left out of statistics: %s", bad, source, example
  )
  if allowed is not None:
    check_bad(source, bad, allowed, example)


def _compute(
  network: Features,
  train: Source,
  heldout: Source,
  request: Request,
  max_bad: MaxBad | None,
) -> Reference:
  rng = np.random.default_rng((request.seed, 2))
  rows = np.arange(len(train))
  if request.num_reals:
    rows = np.sort(rng.choice(rows, request.num_reals, replace=False))
  reals = _read_reals(network, train, rows, request, max_bad)
  name = network.name
  collector = Collector(network, request.kinds)
  unseen = Reader(
    heldout, request.image_shape, max_bad and max_bad(len(heldout))
  )
  for images, labels in unseen.chunks(np.arange(len(heldout))):
    interruption.point()
    collector.add(images, labels)
  distances = floors(collector.seen(), reals.seen, request.kinds, name)
  if "fd" in request.kinds:
    try:
      halves = frechet_distance(*reals.halves)
      distances[f"{column('fd', name)}_floor_halves"] = halves
    except SpecError as error:
      _log.warning("no distance between halves of the reals: %s", error)
    usable = np.setdiff1d(rows, list(reals.reader.unreadable))
    require_enough(
      len(usable),
      network.dimension,
      "readable reals",
      "use a larger data set, or more of it",
    )
    distances |= _baselines(network, train, reals, usable, request)
  return Reference(
    reals.seen,
    _label_counts(reals.reader),
    distances,
    {"train": reals.reader.facts(), "heldout": unseen.facts()},
  )


def _label_counts(reader: Reader) -> np.ndarray:
  """Returns [K] float64; without labels, one class has all images."""
  if reader.label_counts.size:
    return reader.label_counts
  return np.array([reader.images_read], np.float64)


def _baselines(
  network: Features,
  train: Source,
  reals: _Reals,
  rows: np.ndarray,
  request: Request,
) -> dict[str, float]:
  # Both baselines use the same random reals.
  rng = np.random.default_rng((request.seed, 1))
  count = request.num_samples
  drawn = rng.choice(rows, count, replace=count > len(rows))

  def noise(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    draw = rng.normal(reals.mean[labels], reals.std[labels], images.shape)
    return _to_uint8(draw)

  def distance(change: _Change) -> float:
    scored = FeatureMoments.empty(network.dimension)
    for images, labels in Reader(train, request.image_shape).chunks(drawn):
      interruption.point()
      scored = scored.update(network.embed(change(images, labels)).features)
    return frechet_distance(scored, reals.seen.moments)

  name = column("fd", network.name)
  return {
    f"{name}_class_means_noise": distance(noise),
    f"{name}_blurred_reals": distance(lambda images, labels: blur(images)),
  }


_Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blur(images_bhwc: np.ndarray) -> np.ndarray:
  """Blurs uint8 images with a Gaussian whose sigma is 1/16 of their side."""
  from scipy import ndimage

  sigma = images_bhwc.shape[1] * BLUR_SIGMA_PER_PIXEL
  blurred = ndimage.gaussian_filter(
    images_bhwc.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"
  )
  return _to_uint8(blurred)


def _read_reals(
  network: Features,
  train: Source,
  rows: np.ndarray,
  request: Request,
  max_bad: MaxBad | None,
) -> _Reals:
  shape = (max(train.num_classes, 1), *request.image_shape)
  counts = np.zeros(shape[0], np.int64)
  totals, squares = np.zeros(shape), np.zeros(shape)
  halves, kept = [], []
  reader = Reader(train, request.image_shape, max_bad and max_bad(len(rows)))
  kinds = of_reals(request.kinds)
  # Records may be sorted by class, so split a shuffled order.
  order = np.random.default_rng((request.seed, 0)).permutation(rows)
  for part in np.array_split(order, 2):
    collector = Collector(network, kinds, MAX_KEPT // 2)
    # Sorted, for sequential reads. Only features of `keep` are kept.
    keep = np.sort(part[: MAX_KEPT // 2])
    rest = np.sort(part[MAX_KEPT // 2 :])
    for some in (keep, rest):
      for images, labels in reader.chunks(some):
        interruption.point()
        collector.add(images, labels)
        counts += np.bincount(labels, minlength=len(counts))
        np.add.at(totals, labels, images)
        np.add.at(squares, labels, images.astype(np.float64) ** 2)
    kept.append(collector.seen())
    halves.append(kept[-1].moments)
  mean = totals / np.maximum(counts, 1)[:, None, None, None]
  variance = squares / np.maximum(counts, 1)[:, None, None, None] - mean**2
  arrays = zip(*(each[1:4] for each in kept), strict=True)
  seen = Seen(halves[0].merge(halves[1]), *map(np.concatenate, arrays))
  std = np.sqrt(np.maximum(variance, 0))
  return _Reals(seen, (halves[0], halves[1]), reader, mean, std)


def _to_uint8(images: np.ndarray) -> np.ndarray:
  return np.clip(np.round(images), 0, 255).astype(np.uint8)


def warn_if_blind(distances: Mapping[str, float], network: str) -> None:
  """Logs a warning if a network does not tell reals from a baseline.

  Args:
    distances: `Reference.distances`.
    network: name of the network.
  """
  distance = column("fd", network)
  floor = distances.get(f"{distance}_floor")
  baselines = [
    distances.get(f"{distance}_{baseline}", np.inf)
    for baseline in ("class_means_noise", "blurred_reals")
  ]
  if floor is not None and floor >= min(baselines):
    _log.warning(
      "%s places held-out reals no closer to the train split than a baseline: "
      "%s; its distances are not informative for this data",
      network,
      distances,
    )
