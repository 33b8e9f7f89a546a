"""What is known of the reals that samples are scored against, and kept."""

import json
from typing import Any, NamedTuple

import numpy as np

from bigscale.metrics.features import Features
from bigscale.metrics.fid import Moments
from bigscale.metrics.panel import Seen


class Reference(NamedTuple):
  """Of one source and network.

  Attributes:
    reals: what the network makes of the train split.
    label_counts: [K] float64, the reals of each class; one of several labels
      counts an equal part for each.
    distances: floors and baselines, named as in the module's docstring.
    met: by split, JSON values: images read, fitted to the size or the
      channels, and left out because they cannot be used (`Reader.facts`).
  """

  reals: Seen
  label_counts: np.ndarray
  distances: dict[str, float]
  met: dict[str, dict[str, Any]]


def pack(reference: Reference) -> dict[str, np.ndarray]:
  """Returns the arrays that `unpack` makes a reference of."""
  reals = reference.reals
  return {
    "count": np.int64(reals.moments.count),
    "mean": reals.moments.mean,
    "covariance": reals.moments.covariance,
    "features": reals.features,
    "probabilities": reals.probabilities,
    "labels": reals.labels,
    "label_counts": reference.label_counts,
    "met": np.array(json.dumps(reference.met)),
    **{
      f"distance/{name}": np.float64(value)
      for name, value in reference.distances.items()
    },
  }


def unpack(
  arrays: dict[str, np.ndarray], num_classes: int, network: Features
) -> Reference:
  """Reads what `pack` gave.

  Args:
    arrays: by name.
    num_classes: of the source, 1 where it has no labels.
    network: whose features they are.

  Raises:
    KeyError, ValueError, TypeError: these are not a reference's arrays.
  """
  size = network.dimension
  moments = Moments(int(arrays["count"]), arrays["mean"], arrays["covariance"])
  shapes = moments.mean.shape, moments.covariance.shape
  if shapes != ((size,), (size, size)):
    raise ValueError(f"moments have shapes {shapes}")
  seen = Seen(
    moments, arrays["features"], arrays["probabilities"], arrays["labels"]
  )
  if seen.features.shape[1] != size or len(seen.labels) != len(seen.features):
    raise ValueError(f"features have shape {seen.features.shape}")
  counts = arrays["label_counts"]
  if counts.shape != (num_classes,):
    raise ValueError(f"label_counts has shape {counts.shape}")
  found = {
    name.removeprefix("distance/"): float(value)
    for name, value in arrays.items()
    if name.startswith("distance/")
  }
  return Reference(seen, counts, found, json.loads(str(arrays["met"])))
