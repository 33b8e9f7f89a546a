"""Random bits that are a function of a record's place, and of nothing else.

SplitMix64's finalizer (Steele, Lea and Flood 2014, fig. 16), over arrays: no
state, no order, so any process can draw any record's bits alone.
"""

import numpy as np

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(values: np.ndarray) -> np.ndarray:
  """Scrambles uint64 values of any shape, one to one."""
  with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
    z = values + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_bits(seed: int, use: int, places: np.ndarray) -> np.ndarray:
  """64 random bits for every place.

  Args:
    seed: of the run.
    use: a constant that tells one use of randomness from another.
    places: integers of any shape, 0 or more.

  Returns:
    uint64, the shape of `places`.
  """
  return scramble(key_of(seed, use), places)


def key_of(seed: int, use: int) -> np.uint64:
  """What seed and use come to, for who asks often."""
  key = splitmix64(np.array(seed & _MASK, np.uint64))
  return np.uint64(splitmix64(key ^ np.uint64(use & _MASK)))


def scramble(key: np.uint64, places: np.ndarray) -> np.ndarray:
  """64 random bits for every place, see `random_bits`."""
  with np.errstate(over="ignore"):
    return splitmix64(np.asarray(places).astype(np.uint64) + key)
