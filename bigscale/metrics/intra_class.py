"""Fréchet distance within classes (Miyato and Koyama 2018).

This is the mean over classes of the distance between the samples and the reals
of a class. It detects faults that the distance between whole sets misses: a
class whose samples are good but carry another label, or a class that has
collapsed to few images.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bigscale.metrics.fid import (
  FD,
  FeatureMoments,
  frechet_distance,
  require_comparable,
  require_enough,
)
from bigscale.parallel import interruption
from bigscale.spec import ScoreKind, require

if TYPE_CHECKING:
  from bigscale.metrics.features import Seen


class IntraClassDistance(NamedTuple):
  """Distances of the classes that have samples or reals.

  Attributes:
    mean: mean over classes, with equal weights.
    classes: [C] int64, labels in ascending order.
    distances: [C] float64, distance of each class.
  """

  mean: float
  classes: np.ndarray
  distances: np.ndarray


def intra_class_distance(
  samples_nd: np.ndarray,
  sample_labels_n: np.ndarray,
  reals_md: np.ndarray,
  real_labels_m: np.ndarray,
  *,
  class_names: Sequence[str] | None = None,
) -> IntraClassDistance:
  """Compares samples and reals class by class.

  Args:
    samples_nd: [N, D] features of generated images.
    sample_labels_n: [N] integers from 0, labels that samples are conditioned
      on.
    reals_md: [M, D] features of real images.
    real_labels_m: [M] labels of the reals.
    class_names: class names by label, for messages.

  Raises:
    SpecError: a class does not have more than D samples and more than D reals,
      or features differ in length or are not finite.
  """
  dimension = samples_nd.shape[1]
  require_comparable(dimension, reals_md.shape[1])
  for labels, rows in (
    (sample_labels_n, samples_nd),
    (real_labels_m, reals_md),
  ):
    require(
      labels.shape == (len(rows),),
      f"labels have shape {list(labels.shape)}, but there are {len(rows)} "
      "rows; give one label per row",
    )
  classes = np.union1d(sample_labels_n, real_labels_m).astype(np.int64)
  require(len(classes) > 0, "there are no samples and no reals; provide both")
  # Check all counts first, so that a late class cannot waste earlier work.
  for what, labels in (
    ("samples", sample_labels_n),
    ("reals", real_labels_m),
  ):
    for label in classes:
      require_enough(
        int((labels == label).sum()),
        dimension,
        f"{what} of class {_name(int(label), class_names)}",
        f"give more {what} of it, or leave the class out",
      )
  distances = np.empty(len(classes))
  for row, label in enumerate(classes):
    interruption.point()
    distances[row] = frechet_distance(
      FeatureMoments.of(samples_nd[sample_labels_n == label]),
      FeatureMoments.of(reals_md[real_labels_m == label]),
    )
  return IntraClassDistance(float(distances.mean()), classes, distances)


def _name(label: int, class_names: Sequence[str] | None) -> str:
  if class_names is None or not 0 <= label < len(class_names):
    return str(label)
  return f"{label} ({class_names[label]})"


def _score(samples: "Seen", reals: "Seen") -> dict[str, float]:
  within = intra_class_distance(
    samples.features,
    samples.labels,
    reals.features,
    reals.labels,
    class_names=samples.class_names or None,
  )
  return {
    "intra_fd": within.mean,
    "intra_fd_worst": float(within.distances.max()),
  }


INTRA_FD = ScoreKind(
  name="intra_fd",
  columns={"intra_fd": "less", "intra_fd_worst": "less"},
  compute=_score,
  keeps=("features",),
  single_reals=True,
  fewest_samples=FD.fewest_samples,
  fewest_reals=FD.fewest_reals,
  within_classes=True,
  labels=True,
  # Classes with few held-out images have no distance.
  floor=False,
)
