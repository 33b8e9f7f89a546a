"""Random bits and permutations that depend only on a seed and an index.

They apply SplitMix64's finalizer (Steele, Lea and Flood 2014, fig. 16) to
arrays. There is no state, so any process can compute the bits of any record.
"""

import dataclasses
import functools

import numpy as np

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
# Shorter permutations are tables, sorted by hash. Every permutation is equally
# likely, and a table takes at most half a megabyte.
_LARGEST_TABLE = 1 << 16
_ROUNDS = 8
_PERMUTATION_USE = 0x5045524D


def splitmix64(values: np.ndarray) -> np.ndarray:
  """Scrambles uint64 values of any shape; a bijection."""
  with np.errstate(over="ignore"):  # Arithmetic is modulo 2^64.
    z = values + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_bits(seed: int, use: int, places: np.ndarray) -> np.ndarray:
  """Returns 64 random bits for each index.

  Args:
    seed: seed of the run.
    use: constant that separates independent uses of the same seed.
    places: non-negative indices of any shape.

  Returns:
    uint64, the shape of `places`.
  """
  return scramble(key_of(seed, use), places)


def key_of(seed: int, use: int) -> np.uint64:
  """Combines a seed and a use into a key for `scramble`."""
  key = splitmix64(np.array(seed & _MASK, np.uint64))
  return np.uint64(splitmix64(key ^ np.uint64(use & _MASK)))


def scramble(key: np.uint64, places: np.ndarray) -> np.ndarray:
  """Returns 64 random bits for each index; see `random_bits`."""
  with np.errstate(over="ignore"):
    return splitmix64(np.asarray(places).astype(np.uint64) + key)


@dataclasses.dataclass(frozen=True)
class Permutation:
  """A random permutation of [0, length), computed without a table.

  A Feistel network (Luby and Rackoff 1988) permutes all integers that have as
  many bits as `length - 1`. Each round XORs one half of the bits with a hash of
  the other half. The network is applied again until the result is below
  `length`, which makes it a permutation of [0, length) (Black and Rogaway
  2002). Indices can be mapped one by one or in batches.

  Attributes:
    length: number of elements, in [1, 2^62).
    key: any integer that selects the permutation.
  """

  length: int
  key: int

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """Maps indices [N] in [0, length) to their permuted values: [N] int64."""
    places = np.asarray(places, np.int64)
    if self.length <= _LARGEST_TABLE:
      return _table(self.length, self.key)[places]
    values = self._network(places.astype(np.uint64))
    while True:
      # Fewer than half of all integers of this many bits are out of range.
      outside = np.flatnonzero(values >= self.length)
      if not outside.size:
        return values.astype(np.int64)
      values[outside] = self._network(values[outside])

  @functools.cached_property
  def _keys(self) -> list[np.uint64]:
    return [
      key_of(self.key, _PERMUTATION_USE + turn) for turn in range(_ROUNDS)
    ]

  def _network(self, values: np.ndarray) -> np.ndarray:
    bits = (self.length - 1).bit_length()
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for turn in range(0, _ROUNDS, 2):
      high = high ^ (scramble(self._keys[turn], low) & high_mask)
      low = low ^ (scramble(self._keys[turn + 1], high) & low_mask)
    return (high << low_bits) | low


@functools.lru_cache(maxsize=16)
def _table(length: int, key: int) -> np.ndarray:
  bits = random_bits(key, _PERMUTATION_USE, np.arange(length))
  return np.argsort(bits, kind="stable")
