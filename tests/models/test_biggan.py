"""Shapes, modes and invariances of BigGAN; golden tests check its values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan import networks as biggan
from bigscale.ops.spectral import flatten

_SPEC = BigganSpec(
  resolution=32,
  num_classes=3,
  latent_dim=8,
  g_width=2,
  d_width=2,
  shared_dim=4,
  g_attention=(16,),
  d_attention=(16,),
)
_LATENTS = np.random.RandomState(0).normal(size=(4, 8)).astype("f4")
_IMAGES = np.random.RandomState(1).normal(size=(4, 32, 32, 3)).astype("f4")
_LABELS = np.array([0, 1, 2, 1], "i4")


def _abstract(spec):
  """Returns abstract images and logits of two samples, and the variables."""
  model = biggan.make(spec, "cpu")
  key = jax.random.key(0)
  g, d = (jax.eval_shape(n.init, key) for n in (model.g, model.d))

  def run(g, d, latents, labels):
    images, stats = model.g.apply(g, latents, labels, train=True)
    return images, stats, model.d.apply(d, images, labels)

  latents = jax.ShapeDtypeStruct((2, spec.latent_dim), spec.dtype)
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  images, stats, logits = jax.eval_shape(run, g, d, latents, labels)
  assert stats == g["batch_stats"]
  return images, logits, g, d


def _params(spec, player):
  network = getattr(biggan.make(spec, "cpu"), player)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return flatten(shapes["params"])


def _random(network, seed=0):
  """Returns weights without zeros, so that attention has an effect."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  random = np.random.RandomState(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name in ("mean", "var"):
      return jnp.full(leaf.shape, float(name == "var"), leaf.dtype)
    return jnp.asarray(0.3 * random.normal(size=leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def sampler():
  """G with random weights, using the running statistics."""
  g = biggan.make(_SPEC, "cpu").g
  variables = _random(g)
  return jax.jit(lambda z, y: g.apply(variables, z, y, train=False)[0])


@pytest.fixture(scope="module")
def judge():
  """D with random weights."""
  d = biggan.make(_SPEC, "cpu").d
  variables = _random(d)
  return jax.jit(lambda x, y: d.apply(variables, x, y))


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 128, 256, 512])
def test_shapes_at_every_resolution(resolution):
  blocks = {8: 1, 16: 2, 32: 3, 64: 4, 128: 5, 256: 6, 512: 7}[resolution]
  spec = dataclasses.replace(
    _SPEC,
    resolution=resolution,
    latent_dim=4 * (blocks + 1),
    g_attention=(),
    d_attention=(),
  )
  images, logits, g, _ = _abstract(spec)
  assert images.shape == (2, resolution, resolution, 3)
  assert images.dtype == jnp.float32
  assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
  # Two norms per block and the last one, with a mean and a variance each.
  assert len(jax.tree.leaves(g["batch_stats"])) == 2 * (2 * blocks + 1)


@pytest.mark.parametrize("hierarchical", [False, True])
@pytest.mark.parametrize(
  ("num_classes", "shared_dim"), [(0, 0), (0, 4), (3, 0), (3, 4)]
)
def test_every_mode_of_conditioning(num_classes, shared_dim, hierarchical):
  spec = dataclasses.replace(
    _SPEC,
    num_classes=num_classes,
    shared_dim=shared_dim,
    hierarchical=hierarchical,
  )
  images, logits, g, d = _abstract(spec)
  assert images.shape == (2, 32, 32, 3)
  assert logits.shape == (2,)
  g, d = flatten(g["params"]), flatten(d["params"])
  assert ("projection/embedding" in d) == bool(num_classes)
  # 8 latents in 4 chunks of 2, for the first layer and each block.
  assert g["linear/kernel"].shape[0] == (2 if hierarchical else 8)
  gain = {path: g[path].shape for path in g if "block1/norm1/gain" in path}
  if num_classes and not shared_dim and not hierarchical:
    assert gain == {"block1/norm1/gain/embedding": (3, 8)}
  elif num_classes or hierarchical:
    label = (shared_dim or num_classes) if num_classes else 0
    width = label + 2 * hierarchical
    assert gain == {"block1/norm1/gain/kernel": (width, 8)}
  else:
    assert gain == {"block1/norm1/gain": (8,)}


def test_attention_follows_the_requested_sides():
  spec = dataclasses.replace(_SPEC, g_attention=(8, 32), d_attention=())
  g, d = _params(spec, "g"), _params(spec, "d")
  found = {path.split("/")[0] for path in g if path.startswith("attention")}
  assert found == {"attention0", "attention2"}
  assert not [path for path in d if path.startswith("attention")]


def test_first_weights_are_orthogonal():
  x = np.zeros((1, 4, 4, 8), "f4")
  block = biggan.DiscriminatorBlock(
    _SPEC, 8, "cpu", preactivation=True, downsample=True
  )
  params = jax.jit(block.init)(jax.random.key(0), x)["params"]
  w_io = np.asarray(params["conv1"]["kernel"]).reshape(-1, 8)
  np.testing.assert_allclose(w_io.T @ w_io, np.eye(8), atol=1e-5)


def test_images_are_in_the_range_of_tanh(sampler):
  images = sampler(30 * _LATENTS, _LABELS)
  assert np.abs(images).max() <= 1


def test_sampling_does_not_mix_samples(sampler):
  order = np.array([2, 0, 3, 1])
  images = sampler(_LATENTS, _LABELS)
  np.testing.assert_allclose(
    sampler(_LATENTS[order], _LABELS[order]), images[order], atol=1e-5
  )
  gradient = jax.grad(lambda z: sampler(z, _LABELS)[1].sum())(
    jnp.asarray(_LATENTS)
  )
  np.testing.assert_array_equal(np.delete(gradient, 1, axis=0), 0)


def test_images_depend_on_every_chunk_and_the_label(sampler):
  slopes = jax.grad(lambda z: jnp.sum(jnp.square(sampler(z, _LABELS))))(
    jnp.asarray(_LATENTS)
  )
  assert np.all(np.abs(slopes).max(axis=0) > 0)
  others = sampler(_LATENTS, (_LABELS + 1) % 3)
  difference = np.abs(others - sampler(_LATENTS, _LABELS))
  assert difference.max(axis=(1, 2, 3)).min() > 1e-3


def test_logits_of_a_sample_do_not_depend_on_others(judge):
  order = np.array([2, 0, 3, 1])
  logits = judge(_IMAGES, _LABELS)
  np.testing.assert_allclose(
    judge(_IMAGES[order], _LABELS[order]), logits[order], rtol=1e-5, atol=1e-5
  )
  gradient = jax.grad(lambda x: judge(x, _LABELS)[1])(jnp.asarray(_IMAGES))
  np.testing.assert_array_equal(np.delete(gradient, 1, axis=0), 0)
  others = judge(_IMAGES, (_LABELS + 1) % 3)
  assert np.abs(others - logits).min() > 1e-5


def test_weights_with_spectral_norm():
  model = biggan.make(_SPEC, "cpu")
  g = {path for path in _params(_SPEC, "g") if model.g.spectral(path)}
  d = {path for path in _params(_SPEC, "d") if model.d.spectral(path)}
  # In G not the shared embedding; in D also the projection.
  assert "shared/embedding" not in g
  assert "projection/embedding" in d
  assert {"linear/kernel", "block0/norm1/gain/kernel", "to_rgb/kernel"} <= g
  assert not [path for path in g | d if path.endswith(("bias", "gamma"))]
