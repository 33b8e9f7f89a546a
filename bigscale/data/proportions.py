"""Integers in given proportions."""

import numpy as np

from bigscale.data import hashing

_TIES = 0x54494553
# Remainders that are equal to this many decimals are ties.
_DECIMALS = 9


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
  """Apportions an integer by the largest remainder method.

  Each result is the exact share of the total, rounded down or up. The shares
  with the largest remainders are rounded up. A hash of the index breaks ties.

  Args:
    weights: [K] non-negative numbers, not all 0.
    total: non-negative integer to apportion.

  Returns:
    [K] int64 that sum to `total`; 0 where the weight is 0.
  """
  weights = np.asarray(weights, np.float64)
  exact = total * weights / weights.sum()
  counts = np.floor(np.round(exact, _DECIMALS)).astype(np.int64)
  remainders = np.round(exact - counts, _DECIMALS)
  # A weight of 0 gets nothing.
  remainders[weights == 0] = -1
  ties = hashing.random_bits(0, _TIES, np.arange(len(weights)))
  order = np.lexsort((ties, -remainders))
  counts[order[: total - int(counts.sum())]] += 1
  return counts
