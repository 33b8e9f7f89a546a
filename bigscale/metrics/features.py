"""What a feature network is to the scores: images in, numbers out."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from bigscale.types import PyTree


class Embedding(NamedTuple):
  """What a network makes of N images.

  Attributes:
    features: [N, D] float32.
    probabilities: [N, K] float32 of the classes it knows; rows add up to 1.
  """

  features: np.ndarray
  probabilities: np.ndarray


class Weights(NamedTuple):
  """Weights that others have trained, and that fit their network.

  Attributes:
    variables: parameters and running statistics, float32.
    fingerprint: SHA-256 over all of them, in hexadecimal.
    source: where they were read; "" where nobody said.
  """

  variables: PyTree
  fingerprint: str
  source: str = ""


class Features(Protocol):
  """A network whose features are compared.

  Attributes:
    name: the last part of its scores' names.
    dimension: D.
    num_classes: K.
    fingerprint: of its weights: other weights, other scores.
    protocol: what else its scores depend on, as JSON values.
  """

  name: str
  dimension: int
  num_classes: int
  fingerprint: str
  protocol: Mapping[str, Any]

  def embed(self, images: np.ndarray) -> Embedding:
    """Of [N, H, W, C] uint8."""
