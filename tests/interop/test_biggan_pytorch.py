"""BigGAN-PyTorch's state dicts of both models: round trips and inference."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import assert_same, leaves, theirs, trackers

from bigscale.interop import biggan_deep_pytorch, biggan_pytorch
from bigscale.interop.tensors import TensorsError
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec

_GOLDEN = Path(__file__).parents[1] / "golden"
_BIGGAN = BigganSpec(
  resolution=64,
  num_classes=3,
  latent_dim=10,
  g_width=2,
  d_width=4,
  shared_dim=4,
  g_attention=(16, 32),
  d_attention=(8,),
  batch_norm_epsilon=1e-5,
  spectral_epsilon=1e-6,
  num_singular_values=2,
)
_DEEP = BigganDeepSpec(
  resolution=64,
  num_classes=3,
  latent_dim=5,
  g_width=4,
  d_width=8,
  shared_dim=4,
  g_attention=(16,),
  d_attention=(16, 32),
  layout="pytorch",
  batch_norm_epsilon=1e-5,
  spectral_epsilon=1e-6,
  num_singular_values=2,
)


def _module(spec):
  is_deep = isinstance(spec, BigganDeepSpec)
  return biggan_deep_pytorch if is_deep else biggan_pytorch


def _file(spec, player):
  sources = getattr(_module(spec), f"{player}_sources")(spec)
  found = leaves(spec, player)
  tensors = theirs(sources, found)
  return found, tensors | trackers(tensors, spec.num_singular_values)


@pytest.mark.parametrize("player", ["g", "d"])
@pytest.mark.parametrize("spec", [_BIGGAN, _DEEP], ids=["biggan", "deep"])
def test_layouts_keep_every_entry(spec, player):
  found, tensors = _file(spec, player)
  load = {"g": "generator", "d": "discriminator"}[player]
  weights = getattr(_module(spec), load)(spec, tensors)
  assert_same(weights, found)
  name = {"g": "block1/conv2/kernel", "d": "linear/kernel"}[player]
  ranks = {"g": [2, 3], "d": [2]}[player]
  np.testing.assert_array_equal(weights.spectra[name].sigma, ranks)


def test_deep_names_match_the_recording():
  config = {"resolution": 64, "num_classes": 5, "latent_dim": 16}
  with np.load(_GOLDEN / "biggan_deep_64px_f64.npz") as data:
    names = {player: _names(data, player) for player in "GD"}
    g = {name: data[f"G/{name}"] for name in names["G"]}
    d = {name: data[f"D/{name}"] for name in names["D"]}
    recorded = json.loads(str(data["config"]))
  assert recorded["depth"] == 2
  assert recorded["ch"] == 4
  spec = BigganDeepSpec(
    **config,
    shared_dim=16,
    g_width=4,
    d_width=4,
    g_attention=(16,),
    d_attention=(16,),
    layout="pytorch",
    batch_norm_epsilon=1e-5,
    spectral_epsilon=1e-6,
    num_singular_values=3,
  )
  assert biggan_pytorch.infer_spec(g, d) == spec
  biggan_deep_pytorch.generator(spec, g)
  biggan_deep_pytorch.discriminator(spec, d)


def _names(data, player):
  prefix = f"{player}/"
  return [key[2:] for key in data.files if key.startswith(prefix)]


@pytest.mark.parametrize(
  "spec",
  [
    _BIGGAN,
    _DEEP,
    dataclasses.replace(
      _BIGGAN, hierarchical=False, latent_dim=7, d_wide=False
    ),
    dataclasses.replace(
      _BIGGAN,
      resolution=32,
      latent_dim=7,
      shared_dim=0,
      hierarchical=False,
      g_attention=(8,),
      d_attention=(),
      image_channels=1,
    ),
    dataclasses.replace(_DEEP, g_depth=1, d_depth=3, num_singular_values=1),
    dataclasses.replace(_DEEP, layout="tfhub"),
  ],
)
def test_spec_is_inferred(spec):
  _, g = _file(spec, "g")
  _, d = _file(spec, "d")
  assert biggan_pytorch.infer_spec(g, d) == spec
  alone = biggan_pytorch.infer_spec(g)
  assert alone.g_width == alone.d_width == spec.g_width


def test_spec_without_spectral_norm_is_inferred():
  spec = dataclasses.replace(_BIGGAN, g_spectral=False)
  tensors = theirs(biggan_pytorch.g_sources(spec), leaves(spec))
  _, d = _file(spec, "d")
  assert biggan_pytorch.infer_spec(tensors, d) == spec
  assert biggan_pytorch.generator(spec, tensors).spectra == {}


def test_missing_singular_values_are_computed():
  found, tensors = _file(_DEEP, "g")
  without = {name: x for name, x in tensors.items() if ".sv" not in name}
  # The authors' conversion of the official weights leaves this shape.
  without["blocks.3.1.gamma"] = without["blocks.3.1.gamma"].reshape(1)
  spectra = biggan_deep_pytorch.generator(_DEEP, without).spectra
  w_io = found["block0/conv1/kernel"].reshape(64, 16).astype("f8")
  u, _ = spectra["block0/conv1/kernel"].u
  v = w_io @ u
  sigma = np.linalg.norm(v @ w_io) / np.linalg.norm(v)
  got = spectra["block0/conv1/kernel"].sigma
  np.testing.assert_allclose(got[0], sigma, rtol=1e-6)
  exact = np.linalg.svd(w_io, compute_uv=False)
  assert np.all(got <= exact[0])
  assert got[1] > 0


def test_files_of_other_formats_are_refused():
  with pytest.raises(TensorsError, match=r"linear\.weight is missing, which"):
    biggan_pytorch.infer_spec({"conv.weight": np.zeros(3)})
  _, g = _file(_BIGGAN, "g")
  g["blocks.2.0.conv1.weight"] = np.zeros((17, 32, 3, 3))
  with pytest.raises(TensorsError, match="32, 16, 17, 4 channels match none"):
    biggan_pytorch.infer_spec(g)


def test_players_of_different_runs_are_refused():
  _, g = _file(_BIGGAN, "g")
  _, d = _file(dataclasses.replace(_BIGGAN, resolution=128, latent_dim=12), "d")
  with pytest.raises(TensorsError, match="has 128 px and the generator"):
    biggan_pytorch.infer_spec(g, d)
