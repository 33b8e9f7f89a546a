"""Only the networks of a run may round float32."""

import re

import jax
import pytest

from bigscale.configs import biggan
from bigscale.metrics import classifier
from bigscale.ops.precision import NETWORK
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, from_config
from bigscale.train.build import build
from tests.rounding import products


@pytest.fixture(scope="module")
def built():
  """BigGAN with everything else that multiplies: ADA, penalties, terms."""
  config = biggan.get_test_config("128")
  config.model.precision = "default"
  config.augment = {"pipe": "ada", "probability": 0.5}
  config.loss.r1_gamma = 0.1
  config.loss.orthogonal = 1e-4
  return build(from_config(config), make_mesh(MeshSpec(data=1)))


def _sample(built):
  spec = built.spec.model
  return built.sample.trace(
    built.abstract_state.ema,
    jax.ShapeDtypeStruct((4, spec.latent_dim), "float32"),
    jax.ShapeDtypeStruct((4,), "int32"),
  )


def _traced(built, program):
  state, batch = built.abstract_state, built.abstract_batch
  return {
    "init": lambda: built.init.trace(),
    "step": lambda: built.step.trace(state, batch),
    "probe": lambda: built.probe.trace(state, batch, built.abstract_heldout),
    "sample": lambda: _sample(built),
  }[program]()


@pytest.mark.parametrize("program", ["step", "probe", "sample"])
def test_only_networks_use_the_precision_of_the_spec(built, program):
  found = products(_traced(built, program).jaxpr)
  of_networks = {one for one in found if re.search(rf"\b{NETWORK}\b", one[0])}
  assert {stated for _, stated in of_networks} == {"default"}
  # Spectral norm contains matrix products in all three programs.
  assert found - of_networks
  assert {stated for _, stated in found - of_networks} == {"highest"}


def test_the_classifier_that_scores_is_exact():
  network = classifier._Network(3)
  key = jax.random.key(0)
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), "uint8")
  labels = jax.ShapeDtypeStruct((2,), "int32")
  state = jax.eval_shape(lambda x: classifier._init(network, 3, key, x), images)
  update = classifier._update.trace(network, 3, state, key, 0, images, labels)
  infer = classifier._inference(3, make_mesh(MeshSpec(data=1))).trace(
    state.variables, images
  )
  for traced in (update, infer):
    found = products(traced.jaxpr)
    assert {stated for _, stated in found} == {"highest"}
