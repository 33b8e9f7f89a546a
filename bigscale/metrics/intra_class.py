"""Fréchet distance within classes (Miyato and Koyama 2018).

The mean over classes of the distance between the samples and the reals of one
class. It sees what the distance of whole sets cannot: a class that is drawn
well but under another's label, or that has collapsed to few images.
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
  """Of the classes of which there are samples or reals.

  Attributes:
    mean: over classes, each counting the same.
    classes: [C] int64, labels, rising.
    distances: [C] float64, of each class.
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
    sample_labels_n: [N] integers from 0, what they were drawn for.
    reals_md: [M, D] of real ones.
    real_labels_m: [M].
    class_names: by label, for messages.

  Raises:
    SpecError: a class of which there are samples or reals has no more of the
      one or the other than D, features are of different length or not finite.
  """
  dimension = samples_nd.shape[1]
  require_comparable(dimension, reals_md.shape[1])
  for labels, rows in (
    (sample_labels_n, samples_nd),
    (real_labels_m, reals_md),
  ):
    require(
      labels.shape == (len(rows),),
      f"labels of shape {list(labels.shape)} do not name the classes of "
      f"{len(rows)} rows; give one label a row",
    )
  classes = np.union1d(sample_labels_n, real_labels_m).astype(np.int64)
  require(len(classes) > 0, "there are no samples and no reals; give some")
  # All counts first: a late class is not to cost the work of all before it.
  for what, labels in (
    ("samples", sample_labels_n),
    ("reals", real_labels_m),
  ):
    for label in classes:
      require_enough(
        int((labels == label).sum()),
        dimension,
        f"the {what} of class {_name(int(label), class_names)}",
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
  # Classes of which few are held out have no distance of their own.
  floor=False,
)
