"""Which images are compared in pairs for MS-SSIM, and what comes out.

Of every class the first images that come are kept, so that there are about as
many pairs as Odena et al. 2017 draw and memory stays bounded.
"""

from typing import Any, NamedTuple

import numpy as np

from bigscale.metrics.ms_ssim import intra_class_ms_ssim, scales_of
from bigscale.spec import require

PAIRS = 100
# Of images kept, over all classes.
_MOST_BYTES = 2**30


class Pairing(NamedTuple):
  """How images are paired.

  Attributes:
    image_shape: (R, R, C).
    class_names: pairs are within each; () pairs all with all.
  """

  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...] = ()

  @property
  def per_class(self) -> int:
    """Images kept of each class: those of `PAIRS` disjoint pairs, or fewer."""
    classes = max(1, len(self.class_names))
    room = _MOST_BYTES // (classes * int(np.prod(self.image_shape)))
    return max(2, min(2 * PAIRS, room))

  @property
  def protocol(self) -> dict[str, Any]:
    """What the score depends on, as JSON values."""
    return {
      "scales": scales_of(*self.image_shape[:2]),
      "pairs": PAIRS,
      "within": "class" if self.class_names else "set",
      "images_per_class": self.per_class,
    }


class Pairs:
  """Images kept to be paired."""

  def __init__(self, pairing: Pairing) -> None:
    """Keeps none yet."""
    self._pairing = pairing
    self._counts = np.zeros(max(1, len(pairing.class_names)), np.int64)
    self._kept: list[tuple[np.ndarray, np.ndarray]] = []

  @property
  def full(self) -> bool:
    """Whether every class has as many as are kept."""
    return bool((self._counts >= self._pairing.per_class).all())

  def add(self, images: np.ndarray, labels: np.ndarray) -> None:
    """Takes [N, R, R, C] uint8 images and their labels [N]."""
    if self.full:
      return
    if not self._pairing.class_names:
      labels = np.zeros(len(images), np.int64)
    chosen = []
    for label in np.unique(labels):
      room = self._pairing.per_class - self._counts[label]
      rows = np.flatnonzero(labels == label)[: max(0, room)]
      self._counts[label] += len(rows)
      chosen.append(rows)
    rows = np.sort(np.concatenate(chosen))
    self._kept.append((images[rows], labels[rows]))

  def scores(self) -> dict[str, float]:
    """`ms_ssim`, each class counting the same.

    Raises:
      SpecError: there is no image, or one alone of a class.
    """
    require(bool(self._kept), "there are no images to compare; give some")
    images, labels = zip(*self._kept, strict=True)
    found = intra_class_ms_ssim(
      np.concatenate(images),
      np.concatenate(labels),
      pairs=PAIRS,
      class_names=self._pairing.class_names or None,
    )
    return {"ms_ssim": found.ms_ssim}
