"""The interface of feature networks, and the inputs of the scores.

To add a feature network, write a class like `Features` and a row
(`bigscale.spec.FeatureNetwork`) in one file. `open_network` finds it by name.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bigscale.spec import require
from bigscale.spec.scores import network_of

if TYPE_CHECKING:
  from bigscale.metrics.fid import FeatureMoments
  from bigscale.types import Array, PyTree


class Embedding(NamedTuple):
  """A network's outputs for N images.

  Attributes:
    features: [N, D] float32.
    probabilities: [N, K] float32 over the network's classes; rows sum to 1.
  """

  features: np.ndarray
  probabilities: np.ndarray


class FrozenWeights(NamedTuple):
  """Pretrained weights, checked against their network.

  Attributes:
    variables: parameters and running statistics, float32, as nested
      dictionaries.
    fingerprint: SHA-256 over all variables, in hexadecimal.
    source: where the weights were read from; "" if unknown.
  """

  variables: "PyTree"
  fingerprint: str
  source: str = ""


class Features(Protocol):
  """A network whose features are compared.

  Attributes:
    name: name of the network, the last part of its scores' names.
    dimension: D, the length of a feature vector.
    num_classes: K; 0 if the network does not classify.
    variables: weights, which are sent to the other processes of a run.
    fingerprint: hash of the weights. Scores with different fingerprints are
      not comparable.
    protocol: everything else that the scores depend on, as JSON values: the
      layer, and how images are resized and scaled.
  """

  name: str
  dimension: int
  num_classes: int
  variables: "PyTree"
  fingerprint: str
  protocol: Mapping[str, Any]

  def embed(self, images: np.ndarray) -> Embedding:
    """Returns the embedding of [N, H, W, C] uint8 images."""

  def outputs(
    self, variables: "PyTree", images: "Array"
  ) -> tuple["Array", "Array"]:
    """Returns features [N, D] and probabilities [N, K]; for use inside jit.

    Optional. Without it, the monitor compares only pixels with its anchor.

    Args:
      variables: the network's variables.
      images: [N, H, W, C] uint8.
    """


class Seen(NamedTuple):
  """A network's outputs for a set of images, the input of feature scores.

  Attributes:
    moments: moments of all features.
    features: [N, D] float32, the kept features; N may be 0.
    probabilities: [N, K] float32 of the kept images.
    labels: [N] int32 of the kept images: the labels that samples are
      conditioned on, 0 if there are none.
    class_names: class names by label, for messages; () if unknown.
  """

  moments: "FeatureMoments"
  features: np.ndarray
  probabilities: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...] = ()


class KeptImages(NamedTuple):
  """Images of a set, the input of scores over pixels.

  Attributes:
    images: [N, R, R, C] uint8, the first images of each class.
    labels: [N] int64; all 0 if there are no classes.
    class_names: class names by label, for messages; () if there are no classes.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...] = ()


def open_network(feature: str, cache_dir: str | None = None) -> Features:
  """Opens a network by its name.

  Args:
    feature: a name in `bigscale.spec.scores.FEATURES`, or the import path of a
      user's row. The classifier is excluded because it is trained on the data
      source.
    cache_dir: see `cache.directory`.

  Raises:
    SpecError: the weights are missing or damaged, or the network lacks an
      attribute of `Features`.
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
    f"the network of {feature!r} is named {network.name!r}, but its row is "
    f"named {row.name!r}; give both the same name",
  )
  return network
