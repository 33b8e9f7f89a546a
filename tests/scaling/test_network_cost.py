"""Tests traced products and parameters against a count by hand."""

import dataclasses
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bigscale.losses.terms import DTerm
from bigscale.models import biggan, biggan_deep, r3gan, stripped_stylegan2
from bigscale.models.networks import gan_model
from bigscale.scaling import flops
from bigscale.scaling.jaxpr_flops import UnknownCostError
from bigscale.scaling.network_cost import networks, parameters
from bigscale.spec import ModelBase
from tests.scaling.tiny_runs import R3GAN, RPGAN, spec_from

DRIFT = DTerm(
  values=lambda d, x, g, u: d(x.images, x.labels), scalar="d/drift_penalty"
)
GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden" / "products.json").read_text()
)["networks"]
PASSES = (
  flops.FORWARD,
  flops.WEIGHTS,
  flops.INPUT,
  flops.PENALIZED,
  flops.MIXED,
)
PRESETS = {
  f"{name}:{preset}": model
  for name, family in (
    ("biggan", biggan),
    ("biggan_deep", biggan_deep),
    ("r3gan", r3gan),
    ("stripped", stripped_stylegan2),
  )
  for preset, model in family.PRESETS.items()
}
FAST = ("biggan:sngan_128", "r3gan:cifar10", "biggan_deep:128")


def assert_counted(name):
  for player, traced in zip("gd", networks(PRESETS[name]), strict=True):
    by_hand = GOLDEN[name][player]
    assert traced.parameters == by_hand["parameters"]
    found = [flops._products(traced, kind) for kind in PASSES]
    # Attention sums its weights with an additional column of ones.
    attends = any(product.between for product in traced.products)
    rel = 1.5e-3 if attends else 0
    assert found == pytest.approx(by_hand["products"], rel=rel, abs=0)


def test_all_presets_are_pinned():
  assert PRESETS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", FAST)
def test_products_match_the_hand_count(name):
  assert_counted(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS.keys() - set(FAST)))
def test_products_of_every_preset_match_the_hand_count(name):
  assert_counted(name)


@pytest.mark.parametrize(
  ("name", "g", "d"),
  [
    # Published sizes: Brock et al. 2019 (TF-Hub), Huang et al. 2024, Table 2.
    ("biggan:128", 70_433_988, 87_982_370),
    ("r3gan:E", 23_057_952, 23_009_568),
    ("stripped:B", 18_890_453, 23_996_481),
  ],
)
def test_published_sizes(name, g, d):
  assert parameters(PRESETS[name]) == (g, d)


class Odd(nn.Module):
  """A generator with custom layers."""

  hidden: int = 5

  @nn.compact
  def __call__(self, x, labels, train=False):
    del labels, train
    x = x.reshape(len(x), -1)
    w = self.param("kernel", nn.initializers.ones, (x.shape[1], self.hidden))
    h = jnp.einsum("bi,io->bo", x, w)
    # A product of each sample with itself: both factors depend on the sample.
    mixed = jnp.einsum("bi,bj->bij", h, h).sum(-1)
    filtered = mixed @ jnp.ones((self.hidden, 3))
    return nn.Dense(12)(filtered).reshape(-1, 2, 2, 3)


class OddD(nn.Module):
  """A linear discriminator, with an optional opaque callback."""

  opaque: bool = False

  @nn.compact
  def __call__(self, images, labels):
    del labels
    x = nn.Dense(1)(images.reshape(len(images), -1))[:, 0]
    if self.opaque:
      shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
      return jax.pure_callback(lambda x: x, shape, x)
    return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class OddSpec(ModelBase):
  """Spec of a custom model family."""

  opaque: bool = False

  def make_networks(self, platform, split, gather):
    return gan_model(Odd(), OddD(self.opaque), self, gather)


def test_layers_of_any_kind_are_counted_and_classified():
  traced = networks(OddSpec(resolution=2, latent_dim=7)).g
  assert [(p.count, p.first, p.between, p.fixed) for p in traced.products] == [
    (7 * 5, True, False, False),
    (5 * 5, False, True, False),
    (5 * 3, False, False, True),
    (3 * 12, False, False, False),
  ]
  assert traced.parameters == 7 * 5 + 3 * 12 + 12


def test_operations_that_cannot_be_counted_are_named():
  with pytest.raises(UnknownCostError, match="pure_callback"):
    networks(OddSpec(resolution=2, opaque=True))


def test_a_penalty_without_a_declared_cost_is_named():
  term = {"name": "tests.scaling.test_network_cost:DRIFT", "weight": 1.0}
  spec = spec_from(R3GAN, RPGAN | {"terms": (term,)}, {})
  with pytest.raises(UnknownCostError, match="DRIFT' does not declare its"):
    flops.training_flops(spec)
