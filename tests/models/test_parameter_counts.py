"""Exact parameter counts of the published models.

They are recounted from the authors' code.
"""

import dataclasses

import jax
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import PRESETS as R3GAN
from bigscale.models.stripped_stylegan2 import PRESETS as STRIPPED


def _biggan(resolution, latent_dim, g_attention):
  return BigganSpec(
    resolution=resolution,
    num_classes=1000,
    latent_dim=latent_dim,
    g_attention=(g_attention,),
    d_attention=(64,),
  )


def _deep(resolution, layout):
  return BigganDeepSpec(
    resolution=resolution,
    num_classes=1000,
    g_attention=(64,),
    d_attention=(64,),
    layout=layout,
  )


_CASES = {
  "biggan_128": (_biggan(128, 120, 64), 70_433_988, 87_982_370),
  "biggan_256": (_biggan(256, 140, 128), 82_097_604, 99_225_890),
  # compare_gan's D has 98,801,378 parameters, because its blocks that keep
  # their channels have no 1x1 convolution in the shortcut even if they pool:
  # 768 x 768 + 768 and 96 x 96 + 96 fewer than by the authors' rule. The same
  # 768 at 256 px: 98,635,298.
  "biggan_512_z160": (
    _biggan(512, 160, 64),
    82_468_068,
    98_801_378 + (768 * 768 + 768) + (96 * 96 + 96),
  ),
  "biggan_512_z128": (_biggan(512, 128, 64), 82_296_804, 99_401_282),
  "biggan_deep_128": (_deep(128, "tfhub"), 50_388_609, 34_590_210),
  "biggan_deep_256": (_deep(256, "tfhub"), 55_880_833, 38_247_426),
  "biggan_deep_512": (_deep(512, "tfhub"), 56_163_905, 38_301_122),
  "biggan_deep_128_pytorch": (_deep(128, "pytorch"), 50_244_484, 34_590_210),
  "r3gan_cifar10": (R3GAN["cifar10"], 20_781_952, 21_280_512),
  "r3gan_ffhq64": (R3GAN["ffhq64"], 22_429_824, 22_381_440),
  "r3gan_ffhq256": (R3GAN["ffhq256"], 23_057_952, 23_009_568),
  "r3gan_imagenet32": (R3GAN["imagenet32"], 82_914_304, 86_548_992),
  "r3gan_imagenet64": (R3GAN["imagenet64"], 103_570_432, 107_205_120),
  "r3gan_stacked_mnist": (R3GAN["stacked_mnist"], 20_732_160, 20_683_776),
  "roadmap_B": (STRIPPED["B"], 18_890_453, 23_996_481),
  "roadmap_D": (R3GAN["D"], 23_378_304, 23_281_536),
  "roadmap_E": (R3GAN["E"], 23_057_952, 23_009_568),
}


# Millions of parameters in G and D, from Huang et al. 2024, table 4.
_HUANG = {
  "roadmap_B": ("18.890", "23.996"),
  "roadmap_D": ("23.378", "23.282"),
  "roadmap_E": ("23.058", "23.010"),
}


# G and D of the ablation at 128 px: width, shared embedding, skip-z. In
# millions, in the order of the rows of Brock et al. 2019, table 1, recounted
# from the authors' code at 120 latents: 81.3, 173.3, 160.6, 158.4, 71.4.
_TABLE_1 = {
  "ch64": (64, 0, False, 81_334_598, 81.3),
  "ch96": (96, 0, False, 173_341_926, 173.3),
  "ch96_shared": (96, 128, False, 160_578_278, 160.6),
  "ch96_shared_skip": (96, 128, True, 158_416_358, 158.4),
  "ch64_shared_skip": (64, 128, True, 71_426_886, 71.4),
}


def _count(network):
  shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", _CASES)
def test_parameter_count(name):
  spec, g_count, d_count = _CASES[name]
  model = make_model(spec, "tpu")
  for network, count in ((model.g, g_count), (model.d, d_count)):
    if count is not None:
      assert _count(network) == count


@pytest.mark.parametrize("name", _HUANG)
def test_counts_agree_with_the_paper(name):
  printed = tuple(f"{count / 1e6:.3f}" for count in _CASES[name][1:])
  assert printed == _HUANG[name]


@pytest.mark.parametrize("name", _TABLE_1)
def test_table_1(name):
  width, shared_dim, hierarchical, count, millions = _TABLE_1[name]
  spec = dataclasses.replace(
    _biggan(128, 120, 64),
    g_width=width,
    d_width=width,
    shared_dim=shared_dim,
    hierarchical=hierarchical,
  )
  model = make_model(spec, "tpu")
  assert _count(model.g) + _count(model.d) == count
  assert round(count / 1e6, 1) == millions
