"""Applies a classifier to stacks of digits, or to some of its classes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from bigscale.metrics.classifier import Classifier
from bigscale.metrics.features import Embedding
from bigscale.spec import require
from bigscale.types import Array, PyTree


class StackedClassifier:
  """Applies a classifier of gray images to each channel of stacks of three.

  The classes of a stack are all combinations of the channels' classes. The
  first channel is the most significant, as in `data.stacked`.

  Attributes:
    classifier: classifier of one channel.
    dimension: three times the dimension of `classifier`.
    num_classes: K^3.
  """

  name = "classifier"

  def __init__(self, classifier: Classifier) -> None:
    self.classifier = classifier
    self.dimension = 3 * classifier.dimension
    self.num_classes = classifier.num_classes**3
    self.fingerprint = f"stacked {classifier.fingerprint}"

  @property
  def variables(self) -> PyTree:
    """Variables of the classifier of one channel."""
    return self.classifier.variables

  @property
  def protocol(self) -> dict[str, Any]:
    """See `metrics.features.Features`."""
    return {
      **self.classifier.protocol,
      "feature_length": self.dimension,
      "channels": "one by one",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Returns the embedding of [N, R, R, 3] uint8 images.

    Raises:
      SpecError: images do not have the expected shape or dtype.
    """
    require(
      images.shape[-1] == 3,
      f"images have {images.shape[-1]} channels, but stacks have 3; set "
      "model.image_channels=3",
    )
    parts = [
      self.classifier.embed(images[..., channel : channel + 1])
      for channel in range(3)
    ]
    joint_nk = _joint([part.probabilities for part in parts])
    return Embedding(
      np.concatenate([part.features for part in parts], -1), joint_nk
    )

  def outputs(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
    """See `metrics.features.Features`."""
    features, probabilities = zip(
      *(
        self.classifier.outputs(variables, images[..., channel : channel + 1])
        for channel in range(3)
      ),
      strict=True,
    )
    return jnp.concatenate(features, -1), _joint(probabilities)


class KeptClasses:
  """Restricts a classifier's predictions to some of its classes.

  Its features are those of the classifier of all classes, so that runs with few
  and with many classes are comparable.

  Attributes:
    classifier: classifier of all classes.
    kept: kept classes, indexed by their label in the run.
  """

  name = "classifier"

  def __init__(
    self, classifier: Classifier | StackedClassifier, kept: tuple[int, ...]
  ) -> None:
    self.classifier = classifier
    self.kept = kept
    self.dimension = classifier.dimension
    self.num_classes = len(kept)
    self.fingerprint = classifier.fingerprint

  @property
  def variables(self) -> PyTree:
    """Variables of the classifier of all classes."""
    return self.classifier.variables

  @property
  def protocol(self) -> dict[str, Any]:
    """See `metrics.features.Features`."""
    return {
      **self.classifier.protocol,
      "classes": f"{self.num_classes} of {self.classifier.num_classes}",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Computes features, and probabilities normalized over the kept classes.

    Args:
      images: [N, R, R, C] uint8.

    Raises:
      SpecError: images do not have the expected shape or dtype.
    """
    features, probabilities = self.classifier.embed(images)
    within = np.maximum(probabilities[:, self.kept], np.finfo(np.float32).tiny)
    return Embedding(features, within / within.sum(-1, keepdims=True))

  def outputs(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
    """See `metrics.features.Features`."""
    features, probabilities = self.classifier.outputs(variables, images)
    within = jnp.take(probabilities, np.array(self.kept), axis=-1)
    within = jnp.maximum(within, np.finfo(np.float32).tiny)
    return features, within / within.sum(-1, keepdims=True)


def _joint(probabilities: Sequence[Any]) -> Any:
  """Returns the products [N, K^3] of three arrays [N, K]."""
  return functools.reduce(
    lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(a), -1),
    probabilities,
  )
