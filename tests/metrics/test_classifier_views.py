"""The classifier of stacked digits."""

import numpy as np
import pytest

from bigscale.metrics.classifier_views import StackedClassifier
from bigscale.metrics.features import Embedding
from bigscale.spec import SpecError


class Brightness:
  """A classifier of three classes: dark, gray and bright."""

  num_classes = 3
  dimension = 1
  fingerprint = "brightness"

  def embed(self, images):
    level = images[:, 0, 0, 0] // 100
    return Embedding(
      level[:, None].astype(np.float32), np.eye(3, dtype=np.float32)[level]
    )


def test_first_channel_of_a_stack_is_most_significant():
  images = np.zeros((2, 2, 2, 3), np.uint8)
  images[0, ..., :] = [0, 100, 200]
  images[1, ..., :] = [200, 0, 100]
  embedding = StackedClassifier(Brightness()).embed(images)
  assert embedding.probabilities.shape == (2, 27)
  np.testing.assert_array_equal(
    embedding.probabilities.argmax(-1), [0 * 9 + 1 * 3 + 2, 2 * 9 + 0 * 3 + 1]
  )
  np.testing.assert_array_equal(embedding.features, [[0, 1, 2], [2, 0, 1]])
  np.testing.assert_allclose(embedding.probabilities.sum(-1), 1)


def test_gray_images_are_refused():
  with pytest.raises(SpecError, match="image_channels=3"):
    StackedClassifier(Brightness()).embed(np.zeros((2, 2, 2, 1), np.uint8))
