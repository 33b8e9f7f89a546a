"""Reals that D never trains on, for the monitor: a few fixed batches."""

import numpy as np

from bigscale.data import hashing
from bigscale.data.reading import open_data, read_many
from bigscale.spec import DataSpec
from bigscale.types import Batch

# Kept in memory and taken in turn: no position needs saving.
_BATCHES = 4
_HELD = 0x48454C44


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
      bits = hashing.random_bits(self._seed, _HELD, places)
      indices = (bits % np.uint64(len(self._source))).astype(np.int64)
      images, labels = read_many(self._source, indices, *self._shape)
      if not self._labelled:
        labels = np.zeros_like(labels)
      self._read[number] = Batch(images[None], labels[None])
    return self._read[number]
