"""Computes the quantities of Inception-v3's golden file; see `golden_ports`."""

import functools
import json

import jax
import numpy as np

from bigscale.interop import inception
from bigscale.metrics.inception import Inception
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec
from tests.golden.inception_rule import rule_weights


class InceptionPort:
  """Features of the file's images, with the weights of the rule."""

  def __init__(self, data, config, dtype, platform="cpu"):
    # The network always computes in float32.
    del config, dtype, platform
    self.images = np.moveaxis(data["images_nchw_uint8"], 1, -1)
    self.weights = inception.weights(
      rule_weights(json.loads(str(data["shapes"])))
    )

  def answer(self, quantity):
    return {quantity: self.taps[quantity.removeprefix("features/")]}

  @functools.cached_property
  def taps(self):
    mesh = make_mesh(MeshSpec(data=1), jax.devices()[:1])
    network = Inception(self.weights, mesh, images_per_device=len(self.images))
    return network.taps(self.images)
