"""Compares samples of a fixed grid with the anchor.

The grid has the same latents for several labels. It therefore shows how much
the samples depend on the latents and on the labels.
"""

import math
from typing import NamedTuple

import numpy as np

from bigscale.monitor.anchors.data import DataAnchor, Described

# Minimum number of samples per label.
_PER_LABEL = 8
# Offset of the distances whose ratio is compared, in variances of reals.
_OFFSET = 0.05
# Smallest value whose logarithm is compared.
_FLOOR = 1e-4
# A sample has the label that it was asked for if P(label) is above 1/2.
_CERTAIN = math.log(2)


class Grid(NamedTuple):
  """The layout of the grid.

  Attributes:
    labels: [B] int32 labels; each label is repeated `per_label` times, and the
      rest of the batch repeats the last label.
    latents: [B] int32 index of each sample's latents.
    classes: number of different labels.
    per_label: number of samples of each label.
  """

  labels: np.ndarray
  latents: np.ndarray
  classes: int
  per_label: int


def make_grid(count: int, num_classes: int) -> Grid:
  """Returns a grid of at most `count` samples, padded to `count`.

  Args:
    count: number of samples of a batch.
    num_classes: number of classes of the model, 0 without labels.
  """
  classes = min(max(num_classes, 1), max(1, count // _PER_LABEL))
  per_label = count // classes
  chosen = np.linspace(0, max(num_classes, 1) - 1, classes).astype(np.int32)
  place = np.minimum(np.arange(count) // per_label, classes - 1)
  return Grid(chosen[place], np.arange(count) % per_label, classes, per_label)


class _Look(NamedTuple):
  distance: float
  accuracy: float | None
  by_latent: float
  by_label: float | None


class FakesAnchor:
  """The anchor's statistics of the grid's labels."""

  def __init__(self, anchor: DataAnchor, grid: Grid) -> None:
    """Computes the statistics.

    Args:
      anchor: the images to compare with.
      grid: layout of the samples.
    """
    self._grid = grid
    self._anchor = anchor
    self._name = "features" if "features" in anchor.spaces else "pixels"
    space = anchor.spaces[self._name]
    self._metric = space.image
    labels = grid.labels[:: grid.per_label][: grid.classes]
    # Columns of a handful of images would have a deviation of infinity.
    self._scale = 1 / space.image.deviation
    self._centers = (space.centers[labels] - space.image.mean) * self._scale
    within = space.image if space.within is None else space.within
    spread = np.where(space.image.few, 0, within.deviation)
    self._within = np.square(np.where(np.isfinite(spread), spread, 0))
    self._within *= np.square(self._scale)
    self._between = max(float(self._centers.var(0).mean()), 1e-9)

  def look(
    self, average: Described, g: Described | None = None
  ) -> dict[str, float]:
    """Compares the grid's samples by the moving average and by G.

    Args:
      average: measurements of the average's samples.
      g: those of G's samples; None leaves out `average_behind`.

    Returns:
      distance: squared distance of the class means and spreads of the average's
        samples to those of reals, in variances of reals; 0 for reals.
      accuracy: share of these samples that the network assigns to the label
        that was asked for. Only with a network that has classes.
      by_latent: variance within a label, divided by that of reals; at most 1.
      by_label: variance of the labels' means, divided by that of reals; at most
        1. Only with at least two labels.
      average_behind: distance of the average divided by that of G.
    """
    mine = self._measure(average)
    behind = None
    if g is not None:
      its = self._measure(g).distance
      behind = (mine.distance + _OFFSET) / (its + _OFFSET)
    found = {
      "distance": mine.distance,
      "accuracy": mine.accuracy,
      "by_latent": mine.by_latent,
      "by_label": mine.by_label,
      "average_behind": behind,
    }
    known = {name: x for name, x in found.items() if x is not None}
    return {name: max(float(x), _FLOOR) for name, x in known.items()}

  def _measure(self, images: Described) -> _Look:
    classes, per_label = self._grid.classes, self._grid.per_label
    kept = classes * per_label
    x = self._metric.clipped(getattr(images, self._name)[:kept])
    z = ((x - self._metric.mean) * self._scale).reshape(classes, per_label, -1)
    means, within = z.mean(1), z.var(1, ddof=1).mean(0)
    # Squares of means over few latents are too large by this.
    noise = float(within.mean()) / per_label
    spread = np.square(np.sqrt(within) - np.sqrt(self._within)).mean()
    apart = np.square(means - self._centers).mean() - noise
    by_label = accuracy = None
    if classes > 1:
      by_label = min((means.var(0).mean() - noise) / self._between, 1.0)
    if len(images.surprisal):
      accuracy = float((images.surprisal[:kept] < _CERTAIN).mean())
    return _Look(
      max(float(apart), 0.0) + float(spread),
      accuracy,
      min(float(within.mean() / max(self._within.mean(), 1e-9)), 1.0),
      by_label,
    )
