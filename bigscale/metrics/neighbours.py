"""Memorization: how near samples come to images of the train split."""

from typing import NamedTuple

import numpy as np

from bigscale.metrics.distances import DEFAULT_TILES, Neighbours, Tiles, nearest
from bigscale.spec import require


class Memorization(NamedTuple):
  """How near samples come to the train split, beside held-out reals.

  Attributes:
    memorization_ratio: median of `ratios`; about 1 for new images as good as
      reals, far below 1 for copies. Bad samples lie above 1 without being
      new, so read it beside a score of quality.
    ratios: [N] float64, each sample's distance to its nearest train image
      over `heldout_distance`.
    heldout_distance: median distance of a held-out real to its nearest train
      image.
    neighbours: the k nearest train images of each sample, for a sheet.
  """

  memorization_ratio: float
  ratios: np.ndarray
  heldout_distance: float
  neighbours: Neighbours


def memorization(
  samples_nd: np.ndarray,
  train_md: np.ndarray,
  heldout_hd: np.ndarray,
  *,
  k: int = 5,
  tiles: Tiles = DEFAULT_TILES,
) -> Memorization:
  """Searches the train split for the images nearest to each sample.

  A feature network that was trained on the train split draws its images and
  held-out reals apart: ratios are then a little too low for any generator.

  Args:
    samples_nd: [N, D] features of generated images.
    train_md: [M, D] of the train split, all of it.
    heldout_hd: [H, D] of reals that are not in it.
    k: train images found for each sample.
    tiles: pairs that are compared at once; bounds memory.

  Raises:
    SpecError: there are no samples or held-out reals, the train split has
      fewer than k images, half of the held-out reals are in it, features are
      of different length or not finite.
  """
  for name, count in (
    ("samples", len(samples_nd)),
    ("held-out reals", len(heldout_hd)),
  ):
    require(count >= 1, f"{count} {name} have no neighbours; give 1 or more")
  neighbours = nearest(samples_nd, train_md, k, tiles)
  apart = nearest(heldout_hd, train_md, 1, tiles).distances[:, 0]
  heldout_distance = float(np.median(apart))
  require(
    heldout_distance > 0,
    f"{int((apart == 0).sum())} of {len(apart)} held-out reals have a copy in "
    "the train split, so their distance to it says nothing; hold out images "
    "that are not in it",
  )
  ratios = neighbours.distances[:, 0] / heldout_distance
  return Memorization(
    float(np.median(ratios)), ratios, heldout_distance, neighbours
  )
