"""Measures how well D separates reals from samples, on train and held-out data.

BigGAN's D classifies about 98% of its train images correctly, but only 50 to
55% of held-out ones: it has memorized the train split (Brock et al. 2019, sec.
4.2). An accuracy needs a threshold on the logits that has a meaning under the
loss. A relativistic D and a critic have no such threshold, but their order is
meaningful: the share of (real, sample) pairs in which the real has the higher
logit, 0.5 by chance.
"""

import numpy as np

from bigscale.spec import require


def d_accuracy(
  train_n: np.ndarray,
  heldout_n: np.ndarray,
  samples_n: np.ndarray,
  threshold: float | None,
) -> dict[str, float]:
  """Returns how well logits separate reals from samples.

  Args:
    train_n: [N] logits of reals that D trained on.
    heldout_n: logits of held-out reals, any number of them.
    samples_n: logits of samples.
    threshold: logit above which D classifies an image as real, see
      `LossSpec.threshold`; None if the loss does not define one.

  Returns:
    `train_above_samples` and `heldout_above_samples`: shares of pairs, where a
    tie counts as half. If the loss has a threshold, also the accuracies
    `train`, `heldout` and `samples`; a logit at the threshold counts as wrong.

  Raises:
    SpecError: one of the arrays is empty or not finite.
  """
  sides = {"train": train_n, "heldout": heldout_n, "samples": samples_n}
  for name, logits in sides.items():
    require(
      len(logits) > 0 and bool(np.isfinite(logits).all()),
      f"D's {len(logits)} logits of {name} images must be finite and at least "
      "one; use an earlier checkpoint",
    )
  found = {
    "train_above_samples": _above(train_n, samples_n),
    "heldout_above_samples": _above(heldout_n, samples_n),
  }
  if threshold is not None:
    found |= {
      "train": float((train_n > threshold).mean()),
      "heldout": float((heldout_n > threshold).mean()),
      "samples": float((samples_n < threshold).mean()),
    }
  return found


def _above(reals_n: np.ndarray, samples_m: np.ndarray) -> float:
  """Returns the share of pairs with the real above; a tie counts as half."""
  ordered = np.sort(samples_m)
  below = np.searchsorted(ordered, reals_n, "left")
  up_to = np.searchsorted(ordered, reals_n, "right")
  return float((below + up_to).mean() / (2 * len(ordered)))
