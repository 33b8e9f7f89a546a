"""A source's classifier, asked about stacks, or about some of its classes."""

import functools
from typing import Any

import numpy as np

from bigscale.metrics.classifier import Classifier
from bigscale.metrics.features import Embedding
from bigscale.spec import require


class StackedClassifier:
  """A classifier of grey images, on each channel of stacks of three.

  A stack's classes are all combinations, the first channel counting most, as
  in `data.stacked`.

  Attributes:
    classifier: of one channel.
    dimension: three times that of the classifier.
    num_classes: K^3.
  """

  name = "classifier"

  def __init__(self, classifier: Classifier) -> None:
    self.classifier = classifier
    self.dimension = 3 * classifier.dimension
    self.num_classes = classifier.num_classes**3
    self.fingerprint = f"stacked {classifier.fingerprint}"

  @property
  def protocol(self) -> dict[str, Any]:
    """See `metrics.features.Features`."""
    return {
      **self.classifier.protocol,
      "feature_length": self.dimension,
      "channels": "one by one",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Of [N, R, R, 3] uint8.

    Raises:
      SpecError: images of another shape or type.
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
    joint_nk = functools.reduce(
      lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(a), -1),
      [part.probabilities for part in parts],
    )
    return Embedding(
      np.concatenate([part.features for part in parts], -1), joint_nk
    )


class KeptClasses:
  """A classifier, asked which of the kept classes an image is most like.

  Its features are those of all classes, so that runs of few and of many
  classes are measured alike.

  Attributes:
    classifier: of all classes.
    kept: its classes, by their number in the run.
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
  def protocol(self) -> dict[str, Any]:
    """See `metrics.features.Features`."""
    return {
      **self.classifier.protocol,
      "classes": f"{self.num_classes} of {self.classifier.num_classes}",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Probabilities are those within the kept classes.

    Args:
      images: [N, R, R, C] uint8.

    Raises:
      SpecError: images of another shape or type.
    """
    features, probabilities = self.classifier.embed(images)
    within = np.maximum(probabilities[:, self.kept], np.finfo(np.float32).tiny)
    return Embedding(features, within / within.sum(-1, keepdims=True))
