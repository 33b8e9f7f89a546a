"""The memorization sheet: samples next to their nearest train images."""

from typing import Any, NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.reading import Reader, read_many
from bigscale.data.sources import Source
from bigscale.metrics.features import Features
from bigscale.metrics.neighbors import memorization

NEIGHBORS = 5
# Maximum number of samples, and of held-out reals, to search neighbors for.
MOST_SEARCHED = 2000
# Quantiles of the ratios that are reported.
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS = 10
_WHITE = 255
# Number of train images whose features are in memory at once.
_PART = 10_000


class Sheet(NamedTuple):
  """The result of a search.

  Attributes:
    images: [rows * columns, R, R, C] uint8. Each row contains a sample, a blank
      image and the sample's nearest train images. The rows are sorted by the
      distance to the nearest train image, smallest first.
    columns: number of images per row.
    said: JSON values: distances, ratios and image indices.
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
  """Searches the whole train split for the images nearest to each sample.

  Distances are divided by the median distance of held-out reals, so a copy has
  a ratio far below 1 (`neighbors.memorization`).

  Args:
    network: network whose features are compared.
    samples_nhwc: [N, R, R, C] uint8.
    train: split that the model was trained on.
    heldout: split that the model was not trained on.
    seed: seed of the choice of held-out reals, if there are more than
      `MOST_SEARCHED`.

  Raises:
    SpecError: too few images, or half of the held-out images are in `train`.
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
    k=NEIGHBORS,
  )
  # Unreadable records have no features, which shifts the indices of the others.
  read = np.setdiff1d(np.arange(len(train)), list(seen_reader.unreadable))
  nearest = found.neighbors._replace(indices=read[found.neighbors.indices])
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
  return Sheet(np.concatenate(rows), 2 + NEIGHBORS, said)


def _row(sample_hwc: np.ndarray, train: Source, near: np.ndarray) -> np.ndarray:
  """Returns [2 + k, R, R, C]: a sample, a blank, and the nearest images."""
  side, _, channels = sample_hwc.shape
  blank = np.full_like(sample_hwc, _WHITE)
  images = read_many(train, near, side, channels).images
  return np.concatenate([sample_hwc[None], blank[None], images])


def _parts(rows: np.ndarray) -> list[np.ndarray]:
  return [rows[i : i + _PART] for i in range(0, len(rows), _PART)]


def _features(
  network: Features, reader: Reader, rows: np.ndarray
) -> np.ndarray:
  """Returns features [M, D] of the readable records, in order."""
  found = [network.embed(images).features for images, _ in reader.chunks(rows)]
  if not found:
    raise DataError(
      f"none of the {len(rows)} records can be read; check the data set"
    )
  return np.concatenate(found)
