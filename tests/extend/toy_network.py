"""The feature network of docs/how-to/extend.md, "A feature network"."""

import hashlib

import numpy as np

from bigscale.metrics.features import Embedding, FrozenWeights
from bigscale.spec import FeatureNetwork


class RandomFeatures:
  """Random projections of 4 x 4 mean pixels, without class logits."""

  name = "random"
  dimension = 5
  num_classes = 0

  def __init__(self, weights, mesh):
    del mesh  # A network in JAX puts its weights on the devices of the mesh.
    self.variables = weights.variables
    self.fingerprint = weights.fingerprint
    self.protocol = {
      "feature": "a random matrix times means of 4 x 4 cells in [0, 1]",
      "weights_source": weights.source,
    }

  def embed(self, images):
    rows = np.array_split(images.mean(-1) / 255, 4, axis=1)
    cells = [c for row in rows for c in np.array_split(row, 4, axis=2)]
    means = np.stack([cell.mean((1, 2)) for cell in cells], 1)
    features = (means @ self.variables["kernel"]).astype(np.float32)
    return Embedding(features, np.zeros((len(images), 0), np.float32))


def weights(cache_dir):
  """Returns random weights.

  Most networks read a file instead. If it is missing, their error says where to
  get it.
  """
  kernel = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
  fingerprint = hashlib.sha256(kernel.tobytes()).hexdigest()
  return FrozenWeights({"kernel": kernel}, fingerprint, "random")


Random = FeatureNetwork(name="random", weights=weights, make=RandomFeatures)
