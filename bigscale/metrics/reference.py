"""What samples are scored against: features of the reals, floors, baselines.

Scores are against the whole train split, or so many of it as are asked for,
with images fitted as for training and not mirrored. Named after the network,
here NAME:

*   `SCORE_floor`, of every score: what the held-out reals get, unless they are
    too few for it. A distance of few images is too large by about a constant
    over their number, and a classifier of the source has seen the train split
    and not these: a generator can come below this floor.
*   `fd_NAME_floor_halves`: one random half of the reals against the other;
    both effects are gone but for the bias of the halves' size.
*   `fd_NAME_class_means_noise`, `fd_NAME_blurred_reals`: what a generator that
    has learned no more than each class's mean and spread of every pixel, or
    nothing finer than a blur, would get with as many samples.
"""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bigscale.data.reading import read_many
from bigscale.data.sources import Source
from bigscale.metrics import cache
from bigscale.metrics.features import Features
from bigscale.metrics.fid import Moments, frechet_distance, require_enough
from bigscale.metrics.pairs import Pairing, Pairs
from bigscale.metrics.panel import (
  Collector,
  Seen,
  floors,
  of_reals,
  require_counts,
)
from bigscale.spec import SpecError, require
from bigscale.spec.scores import column

VERSION = 2
# A sixteenth of the side: 1 px at 16 px, 2 px at 32 px.
BLUR_SIGMA_PER_PIXEL = 1 / 16
# Of reals of which single features are kept: k-NN of more takes hours.
MOST_KEPT = 50_000

_CHUNK = 250

_log = logging.getLogger(__name__)


class Reference(NamedTuple):
  """Of one source and network.

  Attributes:
    reals: what the network makes of the train split.
    label_counts: [K] int64, train records of each class.
    distances: floors and baselines, named as in the module's docstring.
  """

  reals: Seen
  label_counts: np.ndarray
  distances: dict[str, float]


class Request(NamedTuple):
  """What is to be compared, and how.

  Attributes:
    kinds: of scores, see `bigscale.spec.scores`.
    image_shape: (R, R, C) that images are fitted to.
    num_samples: images in each baseline: as many as will be scored.
    num_reals: train records to compare with, random ones; 0 takes all.
    seed: of choices, halves and baselines.
  """

  kinds: tuple[str, ...]
  image_shape: tuple[int, int, int]
  num_samples: int
  num_reals: int = 0
  seed: int = 0


class _Reals(NamedTuple):
  """One pass over the train split.

  Attributes:
    seen: all of it.
    halves: moments of the two halves.
    counts: [K] int64.
    mean: [K, R, R, C] float64, mean image of each class.
    std: [K, R, R, C] float64, spread of each pixel within the class.
  """

  seen: Seen
  halves: tuple[Moments, Moments]
  counts: np.ndarray
  mean: np.ndarray
  std: np.ndarray


def load_or_compute(
  network: Features,
  train: Source,
  heldout: Source,
  request: Request,
  cache_dir: str | None = None,
) -> Reference:
  """The reference of a source, from the cache where it lies there.

  Args:
    network: gives the features.
    train: split to compare with.
    heldout: split for the floors.
    request: which scores, of how many images.
    cache_dir: see `bigscale.metrics.cache.directory`.

  Raises:
    SpecError: a split, or the number of samples, is too small for a score.
  """
  _check_counts(network, train, request)
  content = {
    "reference_version": VERSION,
    # Other weights or resizing, other features.
    "network": [network.name, network.fingerprint, dict(network.protocol)],
    "train": train.identity,
    "heldout": heldout.identity,
    **request._asdict(),
    "kinds": sorted(request.kinds),
  }
  side, _, channels = request.image_shape
  label = f"{train.name.split('/')[0]} {side}x{channels} {network.name}"
  path = cache.path_of(cache_dir, "reference", label, content)
  arrays = cache.read(path)
  if arrays is not None:
    try:
      return _unpack(arrays, max(train.num_classes, 1), network)
    except (KeyError, ValueError, TypeError) as error:
      cache.discard(path, str(error))
  reference = _compute(network, train, heldout, request)
  cache.write(path, _pack(reference))
  return reference


def pair_floor(
  pairing: Pairing, heldout: Source, seed: int, cache_dir: str | None = None
) -> dict[str, float]:
  """`ms_ssim_floor`: the similarity of held-out reals to one another.

  {} with a warning where two of a class are not held out.

  Args:
    pairing: how samples are paired, too.
    heldout: split to read.
    seed: of the choice of reals.
    cache_dir: see `bigscale.metrics.cache.directory`.
  """
  content = {
    "pairs_version": VERSION,
    "heldout": heldout.identity,
    "seed": seed,
    "image_shape": pairing.image_shape,
    **pairing.protocol,
  }
  label = f"{heldout.name.split('/')[0]} ms_ssim"
  path = cache.path_of(cache_dir, "reference", label, content)
  arrays = cache.read(path)
  if arrays is not None and arrays.keys() == {"ms_ssim"}:
    return {"ms_ssim_floor": float(arrays["ms_ssim"])}
  pairs = Pairs(pairing)
  # Neighbours on disk may be views of one thing.
  order = np.random.default_rng((seed, 3)).permutation(len(heldout))
  for images, labels in read_chunks(heldout, order, pairing.image_shape):
    pairs.add(images, labels)
    if pairs.full:
      break
  try:
    found = pairs.scores()
  except SpecError as error:
    _log.warning("ms_ssim: no floor of held-out reals: %s", error)
    return {}
  cache.write(path, {"ms_ssim": np.float64(found["ms_ssim"])})
  return {"ms_ssim_floor": found["ms_ssim"]}


def _check_counts(network: Features, train: Source, request: Request) -> None:
  require_counts(request.kinds, network.dimension, request.num_samples)
  if "fd" in request.kinds or "fd_infinity" in request.kinds:
    require_enough(
      request.num_reals or len(train),
      network.dimension,
      "the reals to compare with",
      "use a larger set, or more of it",
    )


def _compute(
  network: Features, train: Source, heldout: Source, request: Request
) -> Reference:
  rng = np.random.default_rng((request.seed, 2))
  rows = np.arange(len(train))
  if request.num_reals:
    require(
      request.num_reals <= len(train),
      f"evaluate.num_reals={request.num_reals}, but {train!r} has "
      f"{len(train)} records; use as many or fewer, or 0 for all",
    )
    rows = np.sort(rng.choice(rows, request.num_reals, replace=False))
  reals = _read_reals(network, train, rows, request)
  name = network.name
  collector = Collector(network, request.kinds)
  for images, labels in read_chunks(
    heldout, np.arange(len(heldout)), request.image_shape
  ):
    collector.add(images, labels)
  distances = floors(collector.seen(), reals.seen, request.kinds, name)
  if "fd" in request.kinds:
    try:
      halves = frechet_distance(*reals.halves)
      distances[f"{column('fd', name)}_floor_halves"] = halves
    except SpecError as error:
      _log.warning("no distance between halves of the reals: %s", error)
    distances |= _baselines(network, train, reals, rows, request)
  return Reference(reals.seen, reals.counts, distances)


def _baselines(
  network: Features,
  train: Source,
  reals: _Reals,
  rows: np.ndarray,
  request: Request,
) -> dict[str, float]:
  # Both stand for the same draw of reals.
  rng = np.random.default_rng((request.seed, 1))
  count = request.num_samples
  drawn = rng.choice(rows, count, replace=count > len(rows))

  def noise(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    draw = rng.normal(reals.mean[labels], reals.std[labels], images.shape)
    return _to_uint8(draw)

  def distance(change: _Change) -> float:
    scored = Moments.empty(network.dimension)
    for images, labels in read_chunks(train, drawn, request.image_shape):
      scored = scored.update(network.embed(change(images, labels)).features)
    return frechet_distance(scored, reals.seen.moments)

  name = column("fd", network.name)
  return {
    f"{name}_class_means_noise": distance(noise),
    f"{name}_blurred_reals": distance(lambda images, labels: blur(images)),
  }


_Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blur(images_bhwc: np.ndarray) -> np.ndarray:
  """Gaussian blur of uint8 images, sigma a sixteenth of their side."""
  from scipy import ndimage

  sigma = images_bhwc.shape[1] * BLUR_SIGMA_PER_PIXEL
  blurred = ndimage.gaussian_filter(
    images_bhwc.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"
  )
  return _to_uint8(blurred)


def _read_reals(
  network: Features, train: Source, rows: np.ndarray, request: Request
) -> _Reals:
  shape = (max(train.num_classes, 1), *request.image_shape)
  counts = np.zeros(shape[0], np.int64)
  totals, squares = np.zeros(shape), np.zeros(shape)
  halves, kept = [], []
  kinds = of_reals(request.kinds)
  # Records may lie sorted by class: cut a shuffled order.
  order = np.random.default_rng((request.seed, 0)).permutation(rows)
  for part in np.array_split(order, 2):
    collector = Collector(network, kinds, MOST_KEPT // 2)
    # Sorted, a chunk lies close on disk; what is kept are the first of these.
    keep = np.sort(part[: MOST_KEPT // 2])
    rest = np.sort(part[MOST_KEPT // 2 :])
    for some in (keep, rest):
      for images, labels in read_chunks(train, some, request.image_shape):
        collector.add(images, labels)
        counts += np.bincount(labels, minlength=len(counts))
        np.add.at(totals, labels, images)
        np.add.at(squares, labels, images.astype(np.float64) ** 2)
    kept.append(collector.seen())
    halves.append(kept[-1].moments)
  mean = totals / np.maximum(counts, 1)[:, None, None, None]
  variance = squares / np.maximum(counts, 1)[:, None, None, None] - mean**2
  arrays = zip(*(each[1:] for each in kept), strict=True)
  seen = Seen(halves[0].merge(halves[1]), *map(np.concatenate, arrays))
  std = np.sqrt(np.maximum(variance, 0))
  return _Reals(seen, (halves[0], halves[1]), counts, mean, std)


def read_chunks(
  source: Source, rows: np.ndarray, image_shape: tuple[int, int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Images [N, R, R, C] uint8 and labels [N] of some records, in order."""
  for start in range(0, len(rows), _CHUNK):
    some = rows[start : start + _CHUNK]
    yield read_many(source, some, image_shape[0], image_shape[2])


def _to_uint8(images: np.ndarray) -> np.ndarray:
  return np.clip(np.round(images), 0, 255).astype(np.uint8)


def _pack(reference: Reference) -> dict[str, np.ndarray]:
  reals = reference.reals
  return {
    "count": np.int64(reals.moments.count),
    "mean": reals.moments.mean,
    "covariance": reals.moments.covariance,
    "features": reals.features,
    "probabilities": reals.probabilities,
    "labels": reals.labels,
    "label_counts": reference.label_counts,
    **{
      f"distance/{name}": np.float64(value)
      for name, value in reference.distances.items()
    },
  }


def _unpack(
  arrays: dict[str, np.ndarray], num_classes: int, network: Features
) -> Reference:
  """Raises `KeyError` or `ValueError` where these are not a reference's."""
  size = network.dimension
  moments = Moments(int(arrays["count"]), arrays["mean"], arrays["covariance"])
  shapes = moments.mean.shape, moments.covariance.shape
  if shapes != ((size,), (size, size)):
    raise ValueError(f"moments have shapes {shapes}")
  seen = Seen(
    moments, arrays["features"], arrays["probabilities"], arrays["labels"]
  )
  if seen.features.shape[1] != size or len(seen.labels) != len(seen.features):
    raise ValueError(f"features have shape {seen.features.shape}")
  counts = arrays["label_counts"]
  if counts.shape != (num_classes,):
    raise ValueError(f"label_counts has shape {counts.shape}")
  found = {
    name.removeprefix("distance/"): float(value)
    for name, value in arrays.items()
    if name.startswith("distance/")
  }
  return Reference(seen, counts, found)
