"""What a feature network is to the scores, and what the scores are given.

A network of a user's own is a class like `Features` and a row
(`bigscale.spec.FeatureNetwork`) in one file; `open_network` finds it by name.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bigscale.spec import require
from bigscale.spec.scores import network_of

if TYPE_CHECKING:
  from bigscale.metrics.fid import FeatureMoments
  from bigscale.types import PyTree


class Embedding(NamedTuple):
  """What a network makes of N images.

  Attributes:
    features: [N, D] float32.
    probabilities: [N, K] float32 of the classes it knows; rows add up to 1.
  """

  features: np.ndarray
  probabilities: np.ndarray


class FrozenWeights(NamedTuple):
  """Weights that others have trained, and that fit their network.

  Attributes:
    variables: parameters and running statistics, float32, as nested
      dictionaries.
    fingerprint: SHA-256 over all of them, in hexadecimal.
    source: where they were read; "" where nobody said.
  """

  variables: "PyTree"
  fingerprint: str
  source: str = ""


class Features(Protocol):
  """A network whose features are compared.

  Attributes:
    name: the last part of its scores' names.
    dimension: D.
    num_classes: K; 0 where it tells none apart.
    variables: its weights, which are sent to the other processes of a training.
    fingerprint: of its weights: other weights, other scores.
    protocol: what else its scores depend on, as JSON values: the layer, and
      how images come to the network's size and range.
  """

  name: str
  dimension: int
  num_classes: int
  variables: "PyTree"
  fingerprint: str
  protocol: Mapping[str, Any]

  def embed(self, images: np.ndarray) -> Embedding:
    """Of [N, H, W, C] uint8."""


class Seen(NamedTuple):
  """What a network made of a set of images; scores over features are given it.

  Attributes:
    moments: of all features.
    features: [N, D] float32, of those that are kept; N may be 0.
    probabilities: [N, K] float32, the same.
    labels: [N] int32, the same: what samples were drawn for, 0 where they are
      of no class.
    class_names: by label, for messages; () where nobody says.
  """

  moments: "FeatureMoments"
  features: np.ndarray
  probabilities: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...] = ()


class KeptImages(NamedTuple):
  """Images of a set; scores over pixels are given them.

  Attributes:
    images: [N, R, R, C] uint8, the first of each class.
    labels: [N] int64; all 0 where there are no classes.
    class_names: by label, for messages; () where there are no classes.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...] = ()


def open_network(feature: str, cache_dir: str | None = None) -> Features:
  """Opens a network by its name.

  Args:
    feature: of `bigscale.spec.scores.FEATURES`, but for the classifier, which
      is trained on the data source that it is to judge; or where a user's own
      row is.
    cache_dir: see `cache.directory`.

  Raises:
    SpecError: its weights are missing or damaged, or the network lacks
      something.
  """
  row = network_of(feature)
  network = row.make(row.weights(cache_dir), None)
  parts = (*Features.__annotations__, "embed")
  missing = [part for part in parts if not hasattr(network, part)]
  require(
    not missing,
    f"the network of {feature!r} has no {' and no '.join(missing)}; see "
    "bigscale.metrics.features.Features",
  )
  require(
    network.name == row.name,
    f"the network of {feature!r} is named {network.name!r}, and its row "
    f"{row.name!r}; give both one name",
  )
  return network
