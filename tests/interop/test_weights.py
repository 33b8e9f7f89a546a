"""Import of state dicts: checks and error messages."""

from pathlib import Path

import numpy as np
import pytest

from bigscale.interop import biggan_pytorch, r3gan
from bigscale.interop.tensors import TensorsError
from bigscale.models.biggan import BigganSpec
from bigscale.models.r3gan import R3ganSpec
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError

_GOLDEN = Path(__file__).parents[1] / "golden"
_R3GAN = R3ganSpec(
  resolution=8,
  latent_dim=6,
  widths=(16, 16),
  blocks=(1, 2),
  cardinality=(2, 4),
)
_BIGGAN = BigganSpec(
  resolution=32,
  num_classes=4,
  latent_dim=12,
  g_width=4,
  d_width=4,
  shared_dim=0,
  hierarchical=False,
  num_singular_values=3,
)


def _tensors(stem, player):
  with np.load(_GOLDEN / f"{stem}.npz") as data:
    prefix = f"{player}/"
    return {
      key.removeprefix(prefix): data[key]
      for key in data.files
      if key.startswith(prefix)
    }


def _r3gan(player="G"):
  return _tensors("r3gan_unconditional_8px", player)


def _biggan(player="G"):
  return _tensors("biggan_32px_plain_f64", player)


def test_every_missing_extra_and_misshaped_tensor_is_named():
  tensors = _r3gan("D")
  tensors["Surprise.weight"] = np.zeros((2, 3))
  del tensors["ExtractionLayer.Layer.weight"]
  del tensors["MainLayers.0.Layers.0.NonLinearity1.Bias"]
  head = "MainLayers.1.Layers.1.LinearLayer.weight"
  tensors[head] = np.zeros((1, 17))
  with pytest.raises(TensorsError) as caught:
    r3gan.discriminator(_R3GAN, tensors)
  message = str(caught.value)
  assert isinstance(caught.value, SpecError)
  assert message.startswith("4 tensors do not match")
  assert "missing ExtractionLayer.Layer.weight (16, 3, 1, 1)" in message
  assert "missing MainLayers.0.Layers.0.NonLinearity1.Bias (32,)" in message
  assert "extra Surprise.weight (2, 3)" in message
  assert f"misshaped {head} (1, 17), the spec requires (1, 16)" in message


def test_another_spec_is_refused():
  wrong = BigganSpec(
    resolution=32, num_classes=4, latent_dim=12, g_width=8, d_width=4,
    shared_dim=0, hierarchical=False,
  )  # fmt: skip
  with pytest.raises(TensorsError, match=r"misshaped linear\.weight \(256, 12"):
    biggan_pytorch.generator(wrong, _biggan())


def test_r3gan_filter_is_checked():
  tensors = _r3gan()
  name = "MainLayers.1.Layers.0.Resampler.Kernel"
  tensors[name] = np.full((4, 4), 1 / 16)
  with pytest.raises(TensorsError, match=r"Resampler\.Kernel: its filter"):
    r3gan.generator(_R3GAN, tensors)


def test_layouts_keep_every_entry():
  for sources, player in ((r3gan.g_sources, "G"), (r3gan.d_sources, "D")):
    tensors = _r3gan(player)
    load = r3gan.generator if player == "G" else r3gan.discriminator
    params = flatten(load(_R3GAN, tensors).params)
    for path, (name, layout) in sources(_R3GAN).items():
      np.testing.assert_array_equal(layout.to_file(params[path]), tensors[name])


def test_biggan_first_map_is_channels_last_with_bias_and_trackers():
  tensors = _biggan()
  weights = biggan_pytorch.generator(_BIGGAN, tensors)
  kernel = weights.params["linear"]["kernel"]
  # Row (c, y, x) in the file is column (y, x, c) in bigscale.
  c, y, x = 5, 1, 3
  theirs, ours = (c * 4 + y) * 4 + x, (y * 4 + x) * 16 + c
  np.testing.assert_array_equal(
    kernel[:, ours], tensors["linear.weight"][theirs]
  )
  bias = weights.params["linear"]["bias"]
  assert bias[ours] == tensors["linear.bias"][theirs]
  tracked = weights.spectra["linear/kernel"]
  assert tracked.u.shape == (3, 256)
  assert tracked.u[2, ours] == tensors["linear.u2"][0, theirs]


def test_biggan_trackers_beyond_the_spec_are_ignored():
  one = BigganSpec(
    resolution=32, num_classes=4, latent_dim=12, g_width=4, d_width=4,
    shared_dim=0, hierarchical=False, num_singular_values=1,
  )  # fmt: skip
  weights = biggan_pytorch.discriminator(one, _biggan("D"))
  assert weights.spectra["block0/conv1/kernel"].sigma.shape == (1,)
  # The last layer has one output, so it has only one singular value.
  three = biggan_pytorch.discriminator(_BIGGAN, _biggan("D"))
  assert three.spectra["linear/kernel"].sigma.shape == (1,)
  assert three.spectra["block0/conv1/kernel"].sigma.shape == (3,)


def test_biggan_missing_tracker_is_named():
  tensors = _biggan("D")
  del tensors["embed.u1"]
  with pytest.raises(TensorsError, match=r"missing embed\.u1 \(1, 4\)"):
    biggan_pytorch.discriminator(_BIGGAN, tensors)


def test_weights_have_the_dtype_of_the_spec():
  tensors = {k: v.astype(np.float64) for k, v in _r3gan().items()}
  params = flatten(r3gan.generator(_R3GAN, tensors).params)
  assert {leaf.dtype for leaf in params.values()} == {np.dtype("float32")}
