"""Evaluating the D of a checkpoint outside training."""

import jax
import numpy as np
import pytest

from bigscale.configs import fashion_biggan
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, from_config
from bigscale.train.build import build
from bigscale.train.discriminate import TrainedDiscriminator
from bigscale.train.state import average_of


@pytest.fixture(scope="module")
def built():
  config = fashion_biggan.get_test_config()
  config.model.g_width = config.model.d_width = 2
  return build(from_config(config), make_mesh(MeshSpec(), jax.devices()[:1]))


@pytest.fixture(scope="module")
def d(built):
  rng = np.random.default_rng(0)

  def draw(leaf):
    return rng.standard_normal(leaf.shape).astype(leaf.dtype)

  return jax.tree.map(draw, average_of(built.abstract_state.d))


@pytest.fixture(scope="module")
def images(built):
  model = built.spec.model
  shape = (5, model.resolution, model.resolution, model.image_channels)
  rng = np.random.default_rng(0)
  labels = rng.integers(0, model.num_classes, 5).astype(np.int32)
  return rng.integers(0, 256, shape, np.uint8), labels


def test_logits_use_spectral_norm_and_keep_the_order(built, d, images):
  look = TrainedDiscriminator(built, d, batch_size=3)
  pictures, labels = images
  logits = look.logits(pictures, labels)
  assert logits.shape == (5,)
  # Neither the batch nor its padding changes the logits.
  order = np.array([4, 2, 0, 1, 3])
  np.testing.assert_allclose(
    look.logits(pictures[order], labels[order]), logits[order], rtol=1e-4
  )
  assert np.ptp(logits) > 0
  other = look.logits(pictures, (labels + 1) % 10)
  assert (other != logits).any()
  # Spectral norm cancels the scale of its weights.
  network = built.model.d

  def scaled(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return leaf * 3 if network.spectral(name) else leaf

  larger = d._replace(params=jax.tree_util.tree_map_with_path(scaled, d.params))
  np.testing.assert_allclose(
    TrainedDiscriminator(built, larger, batch_size=3).logits(pictures, labels),
    logits,
    rtol=1e-3,
    atol=1e-5,
  )
