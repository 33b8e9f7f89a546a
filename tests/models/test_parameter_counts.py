"""Published sizes, to the parameter (recounted from the authors' code)."""

import jax
import pytest

from bigscale.models.registry import make_model
from bigscale.spec import BigganSpec, R3ganSpec


def _biggan(resolution, latent_dim, g_attention):
  return BigganSpec(
    resolution=resolution,
    num_classes=1000,
    latent_dim=latent_dim,
    g_attention=(g_attention,),
    d_attention=(64,),
  )


_CASES = {
  "biggan_128": (_biggan(128, 120, 64), 70_433_988, 87_982_370),
  "biggan_256": (_biggan(256, 140, 128), 82_097_604, 99_225_890),
  "biggan_512_z160": (_biggan(512, 160, 64), 82_468_068, None),
  "biggan_512_z128": (_biggan(512, 128, 64), 82_296_804, None),
  "r3gan_cifar10": (
    R3ganSpec(
      resolution=32,
      num_classes=10,
      widths=(768,) * 4,
      blocks=(2,) * 4,
      cardinality=(96,) * 4,
    ),
    20_781_952,
    21_280_512,
  ),
  "r3gan_ffhq256": (
    R3ganSpec(
      resolution=256,
      widths=(768, 768, 768, 768, 384, 192, 96),
      blocks=(2,) * 7,
      cardinality=(96, 96, 96, 96, 48, 24, 12),
      bf16_stages=4,
    ),
    23_057_952,
    23_009_568,
  ),
}


@pytest.mark.parametrize("name", _CASES)
def test_parameter_count(name):
  spec, g_count, d_count = _CASES[name]
  model = make_model(spec, "tpu")
  for network, count in ((model.g, g_count), (model.d, d_count)):
    if count is None:
      continue
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
