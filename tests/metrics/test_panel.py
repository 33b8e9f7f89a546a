"""What is kept of the images that a network has seen."""

import numpy as np
import pytest

from bigscale.metrics.features import Embedding
from bigscale.metrics.panel import Collector

SIZE = 4


class Network:
  """Its features are what lies in an image's corner."""

  dimension = SIZE

  def embed(self, images):
    features = images[:, 0, :SIZE, 0].astype(np.float32)
    return Embedding(features, np.full((len(images), 3), 1 / 3, np.float32))


@pytest.mark.parametrize(
  ("kinds", "features", "probabilities"),
  [(("fd",), 0, 0), (("fd", "kid"), 7, 0), (("is",), 0, 7), ((), 0, 0)],
)
def test_only_what_the_scores_need_is_kept(kinds, features, probabilities):
  collector = Collector(Network(), kinds, keep=7)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 8, 8, 1), np.uint8)
  for rows in (slice(0, 5), slice(5, 10)):
    collector.add(images[rows], np.arange(10)[rows])
  seen = collector.seen()
  assert seen.moments.count == 10
  assert len(seen.features) == len(seen.labels) == features
  assert len(seen.probabilities) == probabilities
  np.testing.assert_array_equal(
    seen.features, images[:features, 0, :SIZE, 0].astype(np.float32)
  )
  # A view of nothing would hold all that it is a view of.
  kept = [array for part in collector._kept for array in part]
  assert all(array.base is None for array in kept)
