"""A classifier of all classes of a source, for runs that see some of them."""

from typing import Any

import numpy as np

from bigscale.metrics.classifier import Classifier
from bigscale.metrics.features import Embedding
from bigscale.metrics.stacked import StackedClassifier


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
