"""A few fixed batches of held-out images, for the monitor."""

import logging

import numpy as np

from bigscale.data import hashing, transforms
from bigscale.data.reading import open_data
from bigscale.data.sources import BadRecordError, Record, padding_of
from bigscale.spec import DataSpec
from bigscale.types import Batch

# Kept in memory and used in turn, so there is no position to checkpoint.
_BATCHES = 4
_HELDOUT_USE = 0x48454C44
# If this many random records are bad, the split is considered unreadable.
_MAX_TRIES = 16
_log = logging.getLogger(__name__)


class Heldout:
  """Batches of the held-out split that depend only on a seed and a number."""

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
      spec: data spec of the run.
      resolution: side of the images in pixels.
      channels: channels of the images.
      num_classes: number of classes of the model; 0 makes all labels 0.
      count: images per batch over all processes.
      rows: indices of the images of a batch that this process reads.
      seed: seed of the selection.

    Raises:
      DataError: there is no held-out split, or it cannot be read.
    """
    self._source = open_data(spec, "heldout")
    self._shape = (resolution, channels)
    self._labeled = num_classes > 0
    self._count = count
    self._rows = rows
    self._seed = seed
    self._read: dict[int, Batch] = {}
    # Read now, so that an unreadable split fails at the start of the run.
    self.batch(0)

  def batch(self, number: int) -> Batch:
    """Returns the batch of a probe.

    Args:
      number: number of the probe. Batches repeat every four probes.

    Returns:
      Images [1, rows, R, R, C] uint8 and labels [1, rows].
    """
    number %= _BATCHES
    if number not in self._read:
      places = number * self._count + self._rows
      self._read[number] = self._draw(places)
    return self._read[number]

  def _draw(self, places: np.ndarray) -> Batch:
    """Reads a random readable record for each index."""
    side, channels = self._shape
    images = np.empty((len(places), side, side, channels), np.uint8)
    labels = np.zeros(len(places), np.int32)
    for row, place in enumerate(places):
      sample, index, choice = self._sample_of(place)
      padding = padding_of(self._source, index)
      transforms.fit_into(sample.image, images[row], padding)
      if self._labeled and sample.labels:
        labels[row] = sample.labels[choice % len(sample.labels)]
    return Batch(images[None], labels[None])

  def _sample_of(self, place: int) -> tuple[Record, int, int]:
    """Returns a readable record, its index, and a random number."""
    for turn in range(_MAX_TRIES):
      # The next record could be selected twice, so draw another one instead.
      bits = hashing.random_bits(
        self._seed, _HELDOUT_USE + turn, np.array(place)
      )
      index = int(bits) % len(self._source)
      try:
        return self._source.read(index), index, int(bits) >> 32
      except BadRecordError as error:
        _log.warning("replacing an unreadable held-out image: %s", error)
        last = error
    raise last
