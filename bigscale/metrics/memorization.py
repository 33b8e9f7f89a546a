"""The memorization sheet: samples beside the train images most like them."""

from typing import Any, NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.reading import Reader, read_many
from bigscale.data.sources import Source
from bigscale.metrics.features import Features
from bigscale.metrics.neighbours import memorization

NEIGHBOURS = 5
# Samples, and held-out reals, whose neighbours are searched.
MOST_SEARCHED = 2000
# Of ratios.
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS = 10
_WHITE = 255
# Train images whose features are in memory at once.
_PART = 10_000


class Sheet(NamedTuple):
  """What a search found.

  Attributes:
    images: [rows * columns, R, R, C] uint8: in each row a sample, nothing, and
      its nearest train images; the samples that lie nearest to one come first.
    columns: images in a row.
    said: JSON values: distances, ratios and whose they are.
  """

  images: np.ndarray
  columns: int
  said: dict[str, Any]


def search(
  network: Features,
  samples_nhwc: np.ndarray,
  train: Source,
  heldout: Source,
  seed: int = 0,
) -> Sheet:
  """Looks through the whole train split for the images nearest to samples.

  A copy lies far nearer than a held-out real does, whose median distance is
  what all others are divided by (`neighbours.memorization`).

  Args:
    network: whose features are compared.
    samples_nhwc: [N, R, R, C] uint8.
    train: split that was trained on.
    heldout: split that was not.
    seed: of the held-out reals, where there are more than `MOST_SEARCHED`.

  Raises:
    SpecError: there are too few images, or half of the held-out ones are in
      the train split.
  """
  shape = samples_nhwc.shape[1:]
  unseen = np.arange(len(heldout))
  if len(unseen) > MOST_SEARCHED:
    unseen = np.random.default_rng((seed, 4)).choice(
      unseen, MOST_SEARCHED, replace=False
    )
  seen_reader, unseen_reader = Reader(train, shape), Reader(heldout, shape)
  found = memorization(
    network.embed(samples_nhwc).features,
    (
      _features(network, seen_reader, rows)
      for rows in _parts(np.arange(len(train)))
    ),
    _features(network, unseen_reader, np.sort(unseen)),
    k=NEIGHBOURS,
  )
  # What cannot be read has no features, and moves the numbers of the others.
  read = np.setdiff1d(np.arange(len(train)), list(seen_reader.unreadable))
  nearest = found.neighbours._replace(indices=read[found.neighbours.indices])
  first = np.argsort(found.ratios, kind="stable")[:_ROWS]
  rows = [_row(samples_nhwc[i], train, nearest.indices[i]) for i in first]
  quantiles = np.quantile(found.ratios, _QUANTILES)
  said = {
    "feature": network.name,
    "num_samples": len(samples_nhwc),
    "num_train": seen_reader.images_read,
    "num_heldout": unseen_reader.images_read,
    "unreadable": {
      "train": len(seen_reader.unreadable),
      "heldout": len(unseen_reader.unreadable),
    },
    "sample_distance": float(np.median(nearest.distances[:, 0])),
    "heldout_distance": found.heldout_distance,
    "memorization_ratio": found.memorization_ratio,
    "ratio_quantiles": {
      str(q): float(x) for q, x in zip(_QUANTILES, quantiles, strict=True)
    },
    "nearest": [
      {
        "sample": int(sample),
        "ratio": float(found.ratios[sample]),
        "train": nearest.indices[sample].tolist(),
      }
      for sample in first
    ],
  }
  return Sheet(np.concatenate(rows), 2 + NEIGHBOURS, said)


def _row(sample_hwc: np.ndarray, train: Source, near: np.ndarray) -> np.ndarray:
  """[2 + k, R, R, C]: a sample, nothing, and the train images nearest to it."""
  side, _, channels = sample_hwc.shape
  blank = np.full_like(sample_hwc, _WHITE)
  images = read_many(train, near, side, channels).images
  return np.concatenate([sample_hwc[None], blank[None], images])


def _parts(rows: np.ndarray) -> list[np.ndarray]:
  return [rows[i : i + _PART] for i in range(0, len(rows), _PART)]


def _features(
  network: Features, reader: Reader, rows: np.ndarray
) -> np.ndarray:
  """Features [M, D] of the records that can be read, in order."""
  found = [network.embed(images).features for images, _ in reader.chunks(rows)]
  if not found:
    raise DataError(f"none of {len(rows)} records can be read; check the set")
  return np.concatenate(found)
