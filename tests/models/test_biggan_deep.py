"""Shapes, layouts and invariances of BigGAN-deep; golden tests check values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.biggan_deep import networks as biggan_deep
from bigscale.models.make import make_model
from bigscale.models.norms import Moments
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError

_SPEC = BigganDeepSpec(
  resolution=64,
  num_classes=3,
  latent_dim=5,
  g_width=4,
  d_width=4,
  shared_dim=4,
  g_depth=1,
  d_depth=1,
  g_attention=(8,),
  d_attention=(8,),
)


@functools.cache
def _abstract(spec):
  """Returns abstract images and logits of two samples, and the variables."""
  model = make_model(spec, "cpu")
  key = jax.random.key(0)
  g, d = (jax.eval_shape(n.init, key) for n in (model.g, model.d))

  def run(g, d, latents, labels):
    images, stats = model.g.apply(g, latents, labels, train=True)
    return images, stats, model.d.apply(d, images, labels)

  latents = jax.ShapeDtypeStruct((2, spec.latent_dim), spec.dtype)
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  images, stats, logits = jax.eval_shape(run, g, d, latents, labels)
  assert stats == g["batch_stats"]
  return images, logits, flatten(g["params"]), flatten(d["params"])


def _shapes(params, pattern):
  return {path: x.shape for path, x in params.items() if pattern in path}


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_shapes_at_every_resolution(resolution):
  spec = dataclasses.replace(_SPEC, resolution=resolution)
  images, logits, g, d = _abstract(spec)
  assert images.shape == (2, resolution, resolution, 3)
  assert images.dtype == jnp.float32
  assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
  stages = {64: 4, 128: 5, 256: 6, 512: 7}[resolution]
  assert len(_shapes(g, "conv4/kernel")) == stages
  assert len(_shapes(d, "conv4/kernel")) == stages


def test_the_published_blocks():
  spec = BigganDeepSpec(resolution=256, num_classes=1000, g_attention=(64,))
  _, _, g, d = _abstract(spec)
  # As in the 256 px configuration of pytorch-pretrained-BigGAN.
  ends = [16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1]
  starts = [16, *ends[:-1]]
  for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
    inner = start * 128 // 4
    assert g[f"block{i}/conv1/kernel"].shape == (1, 1, start * 128, inner)
    assert g[f"block{i}/conv2/kernel"].shape == (3, 3, inner, inner)
    assert g[f"block{i}/conv4/kernel"].shape == (1, 1, inner, end * 128)
    # All norms depend on all of z and the class.
    assert g[f"block{i}/norm4/gain/kernel"].shape == (256, inner)
  # Attention is after the eighth block and before the ninth.
  assert {p.split("/")[0] for p in g if "atten" in p} == {"attention7"}
  assert d["block4_0/conv1/kernel"].shape == (1, 1, 1024, 512)
  # The shortcut keeps the input's channels and adds the missing ones.
  assert d["block4_0/shortcut/kernel"].shape == (1, 1, 1024, 1024)
  grown = {path.split("/")[0] for path in d if "shortcut/kernel" in path}
  assert grown == {"block0_0", "block1_0", "block2_0", "block4_0"}


def test_the_last_convolution_of_each_layout():
  wide, narrow = (
    _abstract(dataclasses.replace(_SPEC, layout=layout, image_channels=1))
    for layout in ("tfhub", "pytorch")
  )
  assert wide[2]["to_rgb/kernel"].shape == (3, 3, 8, 4)
  assert wide[2]["to_rgb/bias"].shape == (4,)
  assert narrow[2]["to_rgb/kernel"].shape == (3, 3, 8, 1)
  assert wide[0].shape == narrow[0].shape == (2, 64, 64, 1)


def test_without_labels():
  spec = dataclasses.replace(_SPEC, num_classes=0, shared_dim=0)
  images, logits, g, d = _abstract(spec)
  assert (images.shape, logits.shape) == ((2, 64, 64, 3), (2,))
  assert "shared/embedding" not in g
  assert "projection/embedding" not in d
  assert g["linear/kernel"].shape[0] == spec.latent_dim
  assert g["block0/norm1/gain/kernel"].shape[0] == spec.latent_dim


def test_weights_with_spectral_norm():
  model = make_model(_SPEC, "cpu")
  _, _, g, d = _abstract(_SPEC)
  g_norm = {path for path in g if model.g.spectral(path)}
  d_norm = {path for path in d if model.d.spectral(path)}
  assert "shared/embedding" not in g_norm
  assert "projection/embedding" in d_norm
  assert {"linear/kernel", "block0/norm4/gain/kernel"} <= g_norm
  assert {"from_rgb/kernel", "block0_0/shortcut/kernel"} <= d_norm
  assert not [p for p in g_norm | d_norm if p.endswith(("bias", "gamma"))]
  assert not model.g.orthogonal("shared/embedding")


def _random(params, seed=0):
  random = np.random.RandomState(seed)
  return jax.tree.map(
    lambda x: (0.3 * random.normal(size=x.shape)).astype(x.dtype), params
  )


def test_generator_block_by_hand():
  """The block equals its definition if all convolutions are near-identities."""
  spec = dataclasses.replace(_SPEC, batch_norm_epsilon=0.0)
  block = biggan_deep.GeneratorBlock(
    spec, 4, upsample=True, platform="cpu", moments=Moments(), train=False
  )
  random = np.random.RandomState(0)
  x = random.normal(size=(2, 2, 2, 8)).astype("f4")
  condition = random.normal(size=(2, 9)).astype("f4")
  variables = block.init(jax.random.key(0), x, condition)
  params = _random(variables["params"])
  for name in ("conv2", "conv3"):
    centre = np.zeros((3, 3, 2, 2), "f4")
    centre[1, 1] = np.eye(2)
    params[name] = {"kernel": centre, "bias": np.zeros(2, "f4")}

  def norm(y, name):
    gain = 1 + condition @ params[name]["gain"]["kernel"]
    bias = condition @ params[name]["bias"]["kernel"]
    return np.maximum(y * gain[:, None, None] + bias[:, None, None], 0)

  def conv(y, name):
    return y @ params[name]["kernel"][0, 0] + params[name]["bias"]

  y = norm(conv(norm(x, "norm1"), "conv1"), "norm2")
  y = conv(norm(norm(y, "norm3"), "norm4"), "conv4")
  small = y + x[..., :4]
  stats = variables["batch_stats"]
  got = block.apply({"params": params, "batch_stats": stats}, x, condition)
  expected = small.repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_discriminator_block_by_hand():
  block = biggan_deep.DiscriminatorBlock(_SPEC, 12, downsample=True)
  x = np.random.RandomState(0).normal(size=(2, 4, 4, 8)).astype("f4")
  params = _random(block.init(jax.random.key(0), x)["params"])
  assert params["shortcut"]["kernel"].shape == (1, 1, 8, 4)
  for name in ("conv2", "conv3"):
    centre = np.zeros((3, 3, 3, 3), "f4")
    centre[1, 1] = np.eye(3)
    params[name] = {"kernel": centre, "bias": np.zeros(3, "f4")}

  def conv(y, name):
    return y @ params[name]["kernel"][0, 0] + params[name]["bias"]

  def pool(y):
    return y.reshape(2, 2, 2, 2, 2, -1).mean(axis=(2, 4))

  inner = np.maximum(conv(np.maximum(x, 0), "conv1"), 0)
  kept = pool(x)
  shortcut = np.concatenate([kept, conv(kept, "shortcut")], axis=-1)
  expected = conv(pool(inner), "conv4") + shortcut
  got = block.apply({"params": params}, x)
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"resolution": 32}, "resolution=32 is not a resolution of BigGAN-deep"),
    ({"g_width": 6}, "g_width=6 must be a multiple of 4"),
    ({"d_depth": 0}, "d_depth=0 must be 1 or more"),
    ({"d_attention": (64,)}, "d_attention contains 64 px"),
    ({"shared_dim": 0}, "shared_dim=0 must be 1 or more"),
  ],
)
def test_rules(change, message):
  with pytest.raises(SpecError, match=message):
    dataclasses.replace(_SPEC, **change)
