"""Random permutations of any length that need no table.

A Feistel network (Luby and Rackoff 1988) permutes the numbers of so many bits,
each half of them masked with a hash of the other; walking on until a number
lies below n makes it a permutation of those below n (Black and Rogaway 2002).
Any place can be asked for alone, and a whole batch at once in numpy.
"""

import dataclasses
import functools

import numpy as np

from bigscale.data import hashing

# Shorter ones are sorted by hash: every permutation is as likely, and half a
# megabyte is no burden.
_LARGEST_TABLE = 1 << 16
_ROUNDS = 8
_USE = 0x5045524D


@dataclasses.dataclass(frozen=True)
class Permutation:
  """Of the numbers below `length`.

  Attributes:
    length: 1 or more, below 2^62.
    key: any integer; another key, another permutation.
  """

  length: int
  key: int

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """What lies at each of the places [N], in [0, length): [N] int64."""
    places = np.asarray(places, np.int64)
    if self.length <= _LARGEST_TABLE:
      return _table(self.length, self.key)[places]
    values = self._network(places.astype(np.uint64))
    while True:
      # Less than half of all numbers of so many bits lie outside.
      outside = np.flatnonzero(values >= self.length)
      if not outside.size:
        return values.astype(np.int64)
      values[outside] = self._network(values[outside])

  @functools.cached_property
  def _keys(self) -> list[np.uint64]:
    return [hashing.key_of(self.key, _USE + turn) for turn in range(_ROUNDS)]

  def _network(self, values: np.ndarray) -> np.ndarray:
    bits = (self.length - 1).bit_length()
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for turn in range(0, _ROUNDS, 2):
      high = high ^ (hashing.scramble(self._keys[turn], low) & high_mask)
      low = low ^ (hashing.scramble(self._keys[turn + 1], high) & low_mask)
    return (high << low_bits) | low


@functools.lru_cache(maxsize=16)
def _table(length: int, key: int) -> np.ndarray:
  bits = hashing.random_bits(key, _USE, np.arange(length))
  return np.argsort(bits, kind="stable")
