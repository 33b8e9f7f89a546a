"""Memorization: distances of samples to their nearest train images."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bigscale.metrics.distances import DEFAULT_TILES, Neighbors, Tiles, nearest
from bigscale.metrics.fid import require_comparable
from bigscale.spec import require


class Memorization(NamedTuple):
  """Distances of samples to the train split, relative to held-out reals.

  Attributes:
    memorization_ratio: median of `ratios`. It is about 1 for new images of the
      quality of reals, and far below 1 for copies. Bad samples have ratios
      above 1 without being new, so read it together with a quality score.
    ratios: [N] float64, each sample's distance to its nearest train image,
      divided by `heldout_distance`.
    heldout_distance: median distance of held-out reals to their nearest train
      image.
    neighbors: the k nearest train images of each sample, for a sheet.
  """

  memorization_ratio: float
  ratios: np.ndarray
  heldout_distance: float
  neighbors: Neighbors


def memorization(
  samples_nd: np.ndarray,
  train_parts: Iterable[np.ndarray],
  heldout_hd: np.ndarray,
  *,
  k: int = 5,
  tiles: Tiles = DEFAULT_TILES,
) -> Memorization:
  """Finds the train images nearest to each sample.

  A feature network that was trained on the train split separates its images
  from held-out reals. Ratios are then slightly too low for any generator.

  Args:
    samples_nd: [N, D] features of generated images.
    train_parts: features of the whole train split, in consecutive [M, D]
      arrays; one is in memory at a time.
    heldout_hd: [H, D] features of reals outside the train split.
    k: number of train images to find per sample.
    tiles: number of pairs compared at once, which bounds memory.

  Raises:
    SpecError: there are no samples or no held-out reals, the train split has
      fewer than k images or contains half of the held-out reals, or features
      differ in length or are not finite.
  """
  for name, count in (
    ("samples", len(samples_nd)),
    ("held-out reals", len(heldout_hd)),
  ):
    require(count >= 1, f"there are no {name}; give 1 or more")
  require_comparable(samples_nd.shape[1], heldout_hd.shape[1])
  # One pass over the train split, because it may have to be read from disk.
  both = _nearest_in_parts(
    np.concatenate([samples_nd, heldout_hd]), train_parts, k, tiles
  )
  count = len(samples_nd)
  neighbors = Neighbors(both.indices[:count], both.distances[:count])
  apart = both.distances[count:, 0]
  heldout_distance = float(np.median(apart))
  require(
    heldout_distance > 0,
    f"{int((apart == 0).sum())} of {len(apart)} held-out reals have a copy in "
    "the train split, so their distance to it is not informative; hold out "
    "images that are not in the train split",
  )
  ratios = neighbors.distances[:, 0] / heldout_distance
  return Memorization(
    float(np.median(ratios)), ratios, heldout_distance, neighbors
  )


def _nearest_in_parts(
  rows_nd: np.ndarray, parts: Iterable[np.ndarray], k: int, tiles: Tiles
) -> Neighbors:
  """Finds nearest rows as `nearest` does, in a reference given in parts."""
  require(k >= 1, f"k={k} must be 1 or more")
  indices = np.zeros((len(rows_nd), 0), np.int64)
  distances = np.zeros((len(rows_nd), 0))
  start = 0
  for part in parts:
    found = nearest(rows_nd, part, min(k, len(part)), tiles)
    indices = np.concatenate([indices, found.indices + start], 1)
    distances = np.concatenate([distances, found.distances], 1)
    order = np.argsort(distances, 1, kind="stable")[:, :k]
    indices = np.take_along_axis(indices, order, 1)
    distances = np.take_along_axis(distances, order, 1)
    start += len(part)
  require(
    start >= k,
    f"{start} train images are fewer than k={k} neighbors; give at least {k}",
  )
  return Neighbors(indices, distances)
