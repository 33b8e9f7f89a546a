"""Whole numbers in given proportions."""

import numpy as np

from bigscale.data import hashing

_TIES = 0x54494553
# Of a remainder: what is closer than this to another is a tie.
_DECIMALS = 9


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
  """Returns whole numbers in proportion to the weights (largest remainder).

  Each is its exact share of the total, rounded down or up. Those with the
  largest remainders are rounded up; a hash of their places decides ties.

  Args:
    weights: [K], 0 or more, not all 0.
    total: to be divided, 0 or more.

  Returns:
    [K] int64 that sum to `total`; 0 where the weight is 0.
  """
  weights = np.asarray(weights, np.float64)
  exact = total * weights / weights.sum()
  counts = np.floor(np.round(exact, _DECIMALS)).astype(np.int64)
  remainders = np.round(exact - counts, _DECIMALS)
  # What has no weight gets nothing.
  remainders[weights == 0] = -1
  ties = hashing.random_bits(0, _TIES, np.arange(len(weights)))
  order = np.lexsort((ties, -remainders))
  counts[order[: total - int(counts.sum())]] += 1
  return counts
