"""Inception score (Salimans et al. 2016): exp E KL(p(y|x) || p(y)).

Splits are runs of consecutive samples, as in the authors' code. Where samples
lie sorted by class, each split then knows few classes and the score is far
too low: shuffle them, or draw their labels at random, before.
"""

import itertools

import numpy as np

from bigscale.spec import require


def inception_score(
  probabilities_nk: np.ndarray, *, splits: int = 10
) -> dict[str, float]:
  """Scores samples by a classifier's opinion of them.

  Args:
    probabilities_nk: [N, K] of any real type, rows that add up to 1, in random
      order; see the module's docstring.
    splits: parts that are scored one by one.

  Returns:
    `is`: mean over splits, from 1 (all the same) to K (sure of every sample,
    all classes equally often). `is_std`: standard deviation over splits (not
    the error of the mean), as the papers report it.

  Raises:
    SpecError: a split would have fewer samples than there are classes, or rows
      are not probabilities.
  """
  count, classes = probabilities_nk.shape
  require(splits >= 1, f"splits={splits} is no number of parts; use 1 or more")
  require(
    count >= splits * classes,
    f"{count} samples are too few for the inception score in splits={splits} "
    f"over {classes} classes, where a split needs as many samples as there are "
    f"classes; give at least {splits * classes} or use fewer splits",
  )
  _require_probabilities(probabilities_nk)
  edges = [part * count // splits for part in range(splits + 1)]
  scores = [
    _score(probabilities_nk[start:end])
    for start, end in itertools.pairwise(edges)
  ]
  return {"is": float(np.mean(scores)), "is_std": float(np.std(scores))}


def _score(probabilities_nk: np.ndarray) -> float:
  p = probabilities_nk.astype(np.float64)
  # Entropy of the mean less the mean entropy: 0 log 0 counts as 0 in both.
  return float(np.exp(_entropy(p.mean(0)) - _entropy(p).mean()))


def _entropy(p: np.ndarray) -> np.ndarray:
  """In nats, over the last axis."""
  return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def _require_probabilities(probabilities_nk: np.ndarray) -> None:
  sums = probabilities_nk.sum(1, dtype=np.float64)
  # Written so that what is not a number fails as well.
  good = (np.abs(sums - 1) < 1e-3) & (probabilities_nk >= 0).all(1)
  require(
    bool(good.all()),
    f"{int((~good).sum())} of {len(good)} rows are not probabilities: they "
    "must be 0 or more and add up to 1; give the classifier's softmax",
  )
