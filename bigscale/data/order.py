"""In which order an epoch reads a source, at no cost of memory or start.

All records are permuted at once where the index of all shards fits in memory.
Where it does not, shards are permuted, and the records of so many consecutive
ones together: each record still comes once an epoch, another order every
epoch, and only those shards are read from at a time. ArrayRecord keeps 14
bytes a record (3.7 where groups of 8 are written): 4.2 GB for 300 million.
"""

import dataclasses
import functools

import numpy as np

from bigscale.data import hashing
from bigscale.data.hashing import Permutation
from bigscale.data.shards import MAX_OPEN_RECORDS
from bigscale.data.sources import Source

_FILES = 0x46494C45
_RECORDS = 0x52454344


@dataclasses.dataclass(frozen=True)
class Order:
  """Of one source, for all epochs.

  Attributes:
    file_records: records of each file.
    together: files that are permuted together.
    seed: of the permutations.
    shuffle: else the order of the source.
  """

  file_records: tuple[int, ...]
  together: int
  seed: int
  shuffle: bool

  @functools.cached_property
  def length(self) -> int:
    """Records of an epoch."""
    return sum(self.file_records)

  @functools.cached_property
  def _starts(self) -> np.ndarray:
    return np.cumsum([0, *self.file_records])[:-1]

  def indices(self, positions: np.ndarray) -> np.ndarray:
    """The records at positions [N] of an endless run of epochs: [N] int64."""
    positions = np.asarray(positions, np.int64)
    epochs, offsets = np.divmod(positions, self.length)
    if not self.shuffle:
      return offsets
    found = np.empty_like(offsets)
    for epoch in np.unique(epochs).tolist():
      rows = epochs == epoch
      found[rows] = self._epoch(epoch, offsets[rows])
    return found

  def _epoch(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
    if self.together >= len(self.file_records):
      return Permutation(self.length, self._key(_RECORDS, epoch))(offsets)
    files, starts = self._windows(epoch)
    # Number of the window, and of the record in it, that each place lies in.
    firsts = starts[:-1][:: self.together]
    windows = np.searchsorted(firsts, offsets, side="right") - 1
    found = np.empty_like(offsets)
    for window in np.unique(windows).tolist():
      rows = windows == window
      first = window * self.together
      last = min(first + self.together, len(files))
      length = int(starts[last] - starts[first])
      key = self._key(_RECORDS, epoch, window)
      places = Permutation(length, key)(offsets[rows] - starts[first])
      places = places + starts[first]
      which = np.searchsorted(starts, places, side="right") - 1
      found[rows] = self._starts[files[which]] + places - starts[which]
    return found

  def _windows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Files as an epoch has them; where each starts in it, and the end."""
    files = Permutation(len(self.file_records), self._key(_FILES, epoch))(
      np.arange(len(self.file_records))
    )
    counts = np.array(self.file_records)[files]
    return files, np.concatenate([[0], np.cumsum(counts)])

  def _key(self, use: int, epoch: int, window: int = 0) -> int:
    bits = hashing.random_bits(self.seed, use, np.array([epoch]))
    return int(hashing.random_bits(int(bits[0]), use, np.array([window]))[0])


def order_of(source: Source, together: int, seed: int, shuffle: bool) -> Order:
  """The order of a source.

  Args:
    source: to be read.
    together: files that are permuted together; 0 takes all where their index
      fits, else as many as leave room for those of the next window.
    seed: of the order.
    shuffle: else as stored.
  """
  counts = source.file_records
  if not together:
    room = max(1, MAX_OPEN_RECORDS // 2 // max(counts))
    together = room if sum(counts) > MAX_OPEN_RECORDS else len(counts)
  return Order(counts, together, seed, shuffle)
