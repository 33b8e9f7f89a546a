"""Shapes, precision and invariances of R3GAN; golden tests check its values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.r3gan import R3ganSpec
from bigscale.models.r3gan import networks as r3gan
from bigscale.ops.spectral import flatten

_SPEC = R3ganSpec(
  resolution=8,
  num_classes=3,
  latent_dim=6,
  widths=(16, 8),
  blocks=(1, 2),
  cardinality=(4, 2),
  class_embedding_dim=5,
)
_LATENTS = np.random.RandomState(0).normal(size=(4, 6)).astype("f4")
_IMAGES = np.random.RandomState(1).normal(size=(4, 8, 8, 3)).astype("f4")
_LABELS = np.array([0, 1, 2, 1], "i4")


def _abstract(spec):
  """Returns the images and logits of two samples, as shapes and dtypes."""
  model = r3gan.make(spec, "cpu")

  def run(latents, labels):
    g, d = (n.init(jax.random.key(0)) for n in (model.g, model.d))
    images, _ = model.g.apply(g, latents, labels, train=True)
    return images, model.d.apply(d, images, labels)

  return jax.eval_shape(
    run,
    jax.ShapeDtypeStruct((2, spec.latent_dim), spec.dtype),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )


def _random(network, seed=0):
  """Returns weights without Fixup's zeros, so that every path has an effect."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  random = np.random.RandomState(seed)
  return jax.tree.map(
    lambda x: (0.3 * random.normal(size=x.shape)).astype(x.dtype), shapes
  )


@pytest.fixture(scope="module")
def apply():
  """G and D with random weights, as functions of their inputs."""
  model = r3gan.make(_SPEC, "cpu")
  g, d = _random(model.g), _random(model.d)
  return (
    jax.jit(lambda z, y: model.g.apply(g, z, y, train=True)[0]),
    jax.jit(lambda x, y: model.d.apply(d, x, y)),
  )


@pytest.mark.parametrize(
  ("num_classes", "bf16_stages", "channels"),
  [(0, 0, 3), (3, 0, 1), (0, 1, 1), (3, 1, 3), (0, 2, 3), (3, 2, 1)],
)
def test_images_and_logits_are_float32(num_classes, bf16_stages, channels):
  spec = dataclasses.replace(
    _SPEC,
    num_classes=num_classes,
    bf16_stages=bf16_stages,
    image_channels=channels,
  )
  images, logits = _abstract(spec)
  assert (images.shape, images.dtype) == ((2, 8, 8, channels), jnp.float32)
  assert (logits.shape, logits.dtype) == ((2,), jnp.float32)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_resolution_is_four_times_two_to_the_stages(stages):
  spec = dataclasses.replace(
    _SPEC,
    resolution=4 * 2 ** (stages - 1),
    widths=(8,) * stages,
    blocks=(1,) * stages,
    cardinality=(2,) * stages,
  )
  images, logits = _abstract(spec)
  assert images.shape == (2, spec.resolution, spec.resolution, 3)
  assert logits.shape == (2,)


def test_half_precision_stages_compute_in_bfloat16_and_change_little():
  half = r3gan.make(dataclasses.replace(_SPEC, bf16_stages=1), "cpu").g
  full = r3gan.make(_SPEC, "cpu").g
  variables = _random(full)

  def images(network, variables):
    return network.apply(variables, _LATENTS, _LABELS, train=True)[0]

  low, high = jax.jit(lambda v: (images(half, v), images(full, v)))(variables)
  error = np.abs(low - high).max()
  assert 1e-5 < error < 0.05 * np.abs(high).max()
  text = str(jax.make_jaxpr(lambda v: images(half, v))(variables))
  # The 4x4 stage is not bfloat16; the 8x8 stage is.
  assert "f32[4,4,4,32]" in text
  assert "bf16[4,4,4,32]" not in text
  assert "bf16[4,8,8,16]" in text
  assert " f32[4,8,8,16]" not in text.replace(":", " ")


def test_parameters_are_always_float32():
  model = r3gan.make(dataclasses.replace(_SPEC, bf16_stages=2), "cpu")
  for network in (model.g, model.d):
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
      np.dtype("float32")
    }


def test_without_labels_there_is_no_embedding_and_labels_do_nothing():
  model = r3gan.make(dataclasses.replace(_SPEC, num_classes=0), "cpu")
  g, d = _random(model.g), _random(model.d)
  assert not [path for path in flatten(g) if "embedding" in path]
  assert not [path for path in flatten(d) if "embedding" in path]

  @jax.jit
  def run(labels):
    images, _ = model.g.apply(g, _LATENTS, labels, train=True)
    return images, model.d.apply(d, images, labels)

  for one, other in zip(run(_LABELS), run(0 * _LABELS), strict=True):
    np.testing.assert_array_equal(one, other)


def test_labels_matter_to_both(apply):
  generate, judge = apply
  others = (_LABELS + 1) % 3
  images = generate(_LATENTS, _LABELS) - generate(_LATENTS, others)
  logits = judge(_IMAGES, _LABELS) - judge(_IMAGES, others)
  assert np.abs(images).max(axis=(1, 2, 3)).min() > 1e-3
  assert np.abs(logits).min() > 1e-4


def test_samples_are_independent(apply):
  generate, judge = apply
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(
    generate(_LATENTS[order], _LABELS[order]),
    generate(_LATENTS, _LABELS)[order],
    atol=1e-5,
  )
  np.testing.assert_allclose(
    judge(_IMAGES[order], _LABELS[order]),
    judge(_IMAGES, _LABELS)[order],
    atol=1e-5,
  )
  gradient = jax.grad(lambda x: judge(x, _LABELS)[1])(jnp.asarray(_IMAGES))
  assert np.abs(gradient[1]).max() > 0
  np.testing.assert_array_equal(np.delete(gradient, 1, axis=0), 0)


def test_blocks_start_as_the_identity():
  x = np.random.RandomState(0).normal(size=(2, 4, 4, 8)).astype("f4")
  block = r3gan.Block(_SPEC, cardinality=2, gain=1.0, platform="cpu")
  variables = block.init(jax.random.key(0), x)
  np.testing.assert_array_equal(block.apply(variables, x), x)
  params = variables["params"]
  assert np.any(params["expand"]["kernel"])
  assert np.any(params["grouped"]["kernel"])
  params["reduce"]["kernel"] = np.ones((1, 1, 16, 8), "f4")
  assert np.abs(block.apply(variables, x) - x).max() > 0.1


def test_standard_deviations_of_initial_weights():
  spec = R3ganSpec(
    resolution=8,
    latent_dim=64,
    widths=(256, 256),
    blocks=(2, 2),
    cardinality=(16, 16),
  )
  init = jax.jit(r3gan.make(spec, "cpu").g.init)
  params = flatten(init(jax.random.key(0))["params"])
  # Fixup: sqrt(2 / 1.04) L^(-1/4) / sqrt(fan-in), L = 4 blocks.
  gain = (2 / 1.04) ** 0.5 / 4**0.25
  expected = {
    "basis": 1.0,
    "latents/kernel": 64**-0.5,
    "to_rgb/kernel": 256**-0.5,
    "stage8_block1/expand/kernel": gain * 256**-0.5,
    "stage8_block1/grouped/kernel": gain * (9 * 32) ** -0.5,
  }
  for path, spread in expected.items():
    np.testing.assert_allclose(np.std(params[path]), spread, rtol=0.06)


@pytest.mark.parametrize("name", ["native", "patches"])
def test_formulations_of_the_grouped_convolution_agree(apply, name):
  other = r3gan.make(dataclasses.replace(_SPEC, grouped_conv=name), "cpu")
  d = _random(other.d)
  logits = jax.jit(lambda x: other.d.apply(d, x, _LABELS))(_IMAGES)
  np.testing.assert_allclose(logits, apply[1](_IMAGES, _LABELS), atol=1e-5)
