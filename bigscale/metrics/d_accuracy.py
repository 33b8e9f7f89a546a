"""How well D tells reals from samples, seen reals and unseen ones.

Brock et al. 2019, sec. 4.2: BigGAN's D is right about 98% of the images that it
trains on and 50 to 55% of held-out ones: it has learned the train split by
heart. An accuracy needs a threshold that the loss gives a meaning to; a
relativistic D and a critic have none, but their order can be read: the share of
pairs of a real and a sample in which the real has the higher logit, 0.5 by
chance.
"""

import numpy as np

from bigscale.spec import require


def d_accuracy(
  train_n: np.ndarray,
  heldout_n: np.ndarray,
  samples_n: np.ndarray,
  threshold: float | None,
) -> dict[str, float]:
  """What logits say of reals and samples.

  Args:
    train_n: logits [N] of reals that D trained on.
    heldout_n: of reals that it did not, as many or not.
    samples_n: of samples.
    threshold: the logit above which D takes an image for real, as
      `LossSpec.threshold`; None where the loss leaves their level free.

  Returns:
    `train_above_samples` and `heldout_above_samples`, shares of pairs, in
    which a tie counts half. Where the loss has a threshold, also the shares
    that D is right about of `train`, `heldout` and `samples`; what lies on the
    threshold counts as wrong.

  Raises:
    SpecError: there are no logits of one kind, or one is not finite.
  """
  sides = {"train": train_n, "heldout": heldout_n, "samples": samples_n}
  for name, logits in sides.items():
    require(
      len(logits) > 0 and bool(np.isfinite(logits).all()),
      f"D's {len(logits)} logits of {name} images are none, or not all finite; "
      "look at an earlier checkpoint",
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
  """Share of all pairs with the real above, ties half."""
  ordered = np.sort(samples_m)
  below = np.searchsorted(ordered, reals_n, "left")
  up_to = np.searchsorted(ordered, reals_n, "right")
  return float((below + up_to).mean() / (2 * len(ordered)))
