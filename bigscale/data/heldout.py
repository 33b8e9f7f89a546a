"""Reals that D never trains on, for the monitor: a few fixed batches."""

import logging

import numpy as np

from bigscale.data import hashing, transforms
from bigscale.data.reading import open_data
from bigscale.data.sources import BadRecordError, Record, padding_of
from bigscale.spec import DataSpec
from bigscale.types import Batch

# Kept in memory and taken in turn: no position needs saving.
_BATCHES = 4
_HELD = 0x48454C44
# A split of which so many random records are bad has no others.
_TRIES = 16
_log = logging.getLogger(__name__)


class Heldout:
  """Batches of the held-out split, functions of (seed, number) alone."""

  def __init__(
    self,
    spec: DataSpec,
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    count: int,
    rows: np.ndarray,
    seed: int,
  ) -> None:
    """Opens the split and reads the first batch.

    Args:
      spec: of the run's data.
      resolution: side of the images, px.
      channels: of the images.
      num_classes: of the model; 0 makes all labels 0.
      count: images of a batch over all processes.
      rows: of them that this process reads.
      seed: of the choice.

    Raises:
      DataError: there is no such split, or it cannot be read.
    """
    self._source = open_data(spec, "heldout")
    self._shape = (resolution, channels)
    self._labelled = num_classes > 0
    self._count = count
    self._rows = rows
    self._seed = seed
    self._read: dict[int, Batch] = {}
    # Now, not in the middle of a run, is the time to find it unreadable.
    self.batch(0)

  def batch(self, number: int) -> Batch:
    """The batch of a look: images [1, rows, R, R, C] uint8, labels [1, rows].

    Args:
      number: of the look; every fourth is the same.
    """
    number %= _BATCHES
    if number not in self._read:
      places = number * self._count + self._rows
      self._read[number] = self._draw(places)
    return self._read[number]

  def _draw(self, places: np.ndarray) -> Batch:
    """Reads a random record for every place, of those that can be read."""
    side, channels = self._shape
    images = np.empty((len(places), side, side, channels), np.uint8)
    labels = np.zeros(len(places), np.int32)
    for row, place in enumerate(places):
      sample, index, choice = self._sample_of(place)
      padding = padding_of(self._source, index)
      transforms.fit_into(sample.image, images[row], padding)
      if self._labelled and sample.labels:
        labels[row] = sample.labels[choice % len(sample.labels)]
    return Batch(images[None], labels[None])

  def _sample_of(self, place: int) -> tuple[Record, int, int]:
    """A record that can be read, its index, and a random number."""
    for turn in range(_TRIES):
      # Another draw, not the next record: that one is not to count twice.
      bits = hashing.random_bits(self._seed, _HELD + turn, np.array(place))
      index = int(bits) % len(self._source)
      try:
        return self._source.read(index), index, int(bits) >> 32
      except BadRecordError as error:
        _log.warning("another held-out image is drawn for it: %s", error)
        last = error
    raise last
