"""Scores of the classes that a classifier predicts for samples.

Inception score (Salimans et al. 2016): exp E KL(p(y|x) || p(y)). Splits are
runs of consecutive samples, as in the authors' code. If samples are sorted by
class, each split contains few classes and the score is far too low. Shuffle
such samples first, or draw their labels at random.

Mode coverage (Metz et al. 2017, Lin et al. 2018): how many of K known modes the
samples cover, and how evenly. The divergence of reals is not 0. N samples of K
equal modes have a divergence of about (K - 1) / 2N from sampling alone, which
is 0.019 for 26,000 samples of 1,000 modes. The digits of MNIST are not equally
frequent, which makes it 0.024. The floor of the reals is therefore reported
with every score.
"""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigscale.spec import ScoreKind, require

if TYPE_CHECKING:
  from bigscale.metrics.features import Seen

_SPLITS = 10


def inception_score(
  probabilities_nk: np.ndarray, *, splits: int = 10
) -> dict[str, float]:
  """Returns the Inception score of a classifier's predictions.

  Args:
    probabilities_nk: [N, K] of any real dtype, rows that sum to 1, in random
      order; see the module's docstring.
    splits: number of splits, which are scored separately.

  Returns:
    `is`: mean over splits, from 1 (all samples are alike) to K (every
    prediction is certain and all classes are equally frequent). `is_std`:
    standard deviation over splits, as papers report it, not the error of the
    mean.

  Raises:
    SpecError: a split would have fewer samples than there are classes, or rows
      are not probabilities.
  """
  count, classes = probabilities_nk.shape
  require(splits >= 1, f"splits={splits} must be 1 or more")
  require(
    count >= splits * classes,
    f"{count} samples are too few for the inception score in splits={splits} "
    f"over {classes} classes, because a split needs as many samples as there "
    f"are classes; give at least {splits * classes} or use fewer splits",
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
  # Entropy of the mean minus the mean entropy. Both count 0 log 0 as 0.
  return float(np.exp(_entropy(p.mean(0)) - _entropy(p).mean()))


def _entropy(p: np.ndarray) -> np.ndarray:
  """Returns the entropy in nats over the last axis."""
  return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def _require_probabilities(probabilities_nk: np.ndarray) -> None:
  sums = probabilities_nk.sum(1, dtype=np.float64)
  # Written so that NaN fails too.
  good = (np.abs(sums - 1) < 1e-3) & (probabilities_nk >= 0).all(1)
  require(
    bool(good.all()),
    f"{int((~good).sum())} of {len(good)} rows are not probabilities: they "
    "must be 0 or more and sum to 1; give the classifier's softmax",
  )


class Coverage(NamedTuple):
  """Mode coverage of a set of samples.

  Attributes:
    modes: number of modes with at least one sample.
    reverse_kl: KL(samples || uniform over all modes), nats.
  """

  modes: int
  reverse_kl: float


def mode_coverage(counts_k: np.ndarray) -> Coverage:
  """Computes the mode coverage from sample counts.

  Args:
    counts_k: [K] integers, number of samples per mode.

  Raises:
    SpecError: there are no samples, or fewer than 2 modes.
  """
  total = int(counts_k.sum())
  require(
    total >= 1 and len(counts_k) >= 2,
    f"{total} samples of {len(counts_k)} modes cover nothing; give samples "
    "and a classifier of 2 or more classes",
  )
  shares = counts_k[counts_k > 0] / total
  divergence = float((shares * np.log(shares * len(counts_k))).sum())
  return Coverage(int((counts_k > 0).sum()), divergence)


def _inception_score(samples: "Seen", reals: "Seen") -> dict[str, float]:
  count, classes = samples.probabilities.shape
  splits = max(1, min(_SPLITS, count // max(classes, 1)))
  return inception_score(samples.probabilities, splits=splits)


def _modes(samples: "Seen", reals: "Seen") -> dict[str, float]:
  probabilities = samples.probabilities
  classes = probabilities.argmax(-1)
  counts = np.bincount(classes, minlength=probabilities.shape[1])
  covered = mode_coverage(counts)
  return {"modes": covered.modes, "modes_kl": covered.reverse_kl}


INCEPTION_SCORE = ScoreKind(
  name="is",
  columns={"is": "more", "is_std": None},
  compute=_inception_score,
  keeps=("probabilities",),
  fewest_samples=lambda dimension, classes: max(classes, 1),
  fewest_classes=1,
)
MODES = ScoreKind(
  name="modes",
  columns={"modes": "more", "modes_kl": "less"},
  compute=_modes,
  keeps=("probabilities",),
  fewest_classes=2,
)
