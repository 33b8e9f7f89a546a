"""Stripped StyleGAN2: shapes, sums of images and initialization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bigscale.models.stripped_stylegan2 import PRESETS, StrippedSpec
from bigscale.models.stripped_stylegan2 import networks as stripped
from bigscale.ops.resample import downsample2x, upsample2x
from bigscale.ops.spectral import flatten, unflatten
from bigscale.spec import SpecError, choose_preset

_SPEC = StrippedSpec(
  resolution=16,
  num_classes=3,
  latent_dim=6,
  widths=(12, 8, 8),
  class_embedding_dim=5,
)
_RANDOM = np.random.RandomState(0)
_LATENTS = _RANDOM.normal(size=(4, 6)).astype("f4")
_IMAGES = _RANDOM.normal(size=(4, 16, 16, 3)).astype("f4")
_LABELS = np.array([0, 1, 2, 1], "i4")


def _random(network, seed=0):
  """Returns weights and biases of similar size."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  random = np.random.RandomState(seed)
  return jax.tree.map(
    lambda x: (0.3 * random.normal(size=x.shape)).astype(x.dtype), shapes
  )


@pytest.fixture(scope="module")
def model():
  """G and D with random weights."""
  made = stripped.make(_SPEC)
  return made, _random(made.g), _random(made.d)


@pytest.fixture(scope="module")
def apply(model):
  made, g, d = model
  return (
    jax.jit(lambda z, y: made.g.apply(g, z, y, train=True)[0]),
    jax.jit(lambda x, y: made.d.apply(d, x, y)),
  )


@pytest.mark.parametrize(
  ("widths", "classes", "channels", "dtype"),
  [
    ((8, 4), 0, 3, "float32"),
    ((8, 8, 4, 2), 3, 1, "float32"),
    ((8, 4), 3, 3, "float64"),
  ],
)
def test_shapes_and_dtypes(widths, classes, channels, dtype):
  side = 4 * 2 ** (len(widths) - 1)
  spec = StrippedSpec(
    resolution=side,
    image_channels=channels,
    num_classes=classes,
    widths=widths,
    dtype=dtype,
  )

  def run(latents, labels):
    made = stripped.make(spec)
    g, d = (n.init(jax.random.key(0)) for n in (made.g, made.d))
    images, _ = made.g.apply(g, latents, labels, train=True)
    return images, made.d.apply(d, images, labels)

  with jax.enable_x64(dtype == "float64"):
    images, logits = jax.eval_shape(
      run,
      jax.ShapeDtypeStruct((2, 64), dtype),
      jax.ShapeDtypeStruct((2,), jnp.int32),
    )
  assert (images.shape, images.dtype) == ((2, side, side, channels), dtype)
  assert (logits.shape, logits.dtype) == ((2,), dtype)


def test_image_is_the_sum_over_resolutions(model):
  """With output skips, the image of one resolution is later only upsampled."""
  made, g, _ = model

  @jax.jit
  def images(g):
    return made.g.apply(g, _LATENTS, _LABELS, train=True)[0]

  def only(*sides):
    """Returns G with black images at all other resolutions."""
    kept = tuple(f"stage{side}_to_rgb/" for side in sides)
    flat = flatten(g["params"])
    params = {
      path: x if "to_rgb" not in path or path.startswith(kept) else 0 * x
      for path, x in flat.items()
    }
    return {"params": unflatten(params), "batch_stats": {}}

  whole = images(g)
  parts = [images(only(side)) for side in (4, 8, 16)]
  assert all(np.abs(part).max() > 0.01 for part in parts)
  np.testing.assert_allclose(sum(parts), whole, atol=1e-5)
  # The 4 px image has 4 x 4 free pixels per channel, upsampled twice.
  pixels = jnp.eye(16).reshape(16, 4, 4, 1)
  basis = np.asarray(upsample2x(upsample2x(pixels))).reshape(16, 256).T
  drawn = np.moveaxis(np.asarray(parts[0]), -1, 1).reshape(12, 256).T
  _, residual, rank, _ = np.linalg.lstsq(basis, drawn, rcond=None)
  assert rank == 16
  assert residual.max() < 1e-6


def test_block_is_the_skip_path_over_root_two_without_its_branch():
  x = _RANDOM.normal(size=(2, 8, 8, 4)).astype("f4")
  block = stripped.ResidualBlock(6, "float32")
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
  params = jax.tree.map(
    lambda leaf: _RANDOM.normal(size=leaf.shape).astype("f4"), shapes
  )
  apply = jax.jit(lambda params: block.apply({"params": params}, x))
  whole = apply(params)
  params["conv1"] = jax.tree.map(np.zeros_like, params["conv1"])
  skip = downsample2x(x) @ params["skip"]["kernel"][0, 0]
  alone = apply(params)
  np.testing.assert_allclose(alone, skip / 2**0.5, atol=1e-5)
  assert np.abs(whole - alone).max() > 0.1


def test_filters_and_convolutions_make_stylegan2s_strided_ones():
  """They agree inside the borders; StyleGAN2 fuses the filter [1, 3, 3, 1]."""
  x = _RANDOM.uniform(1, 2, size=(1, 16, 16, 4)).astype("f4")
  w = _RANDOM.uniform(0, 1, size=(3, 3, 4, 2)).astype("f4")
  taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype("f4") / 64
  numbers = ("NHWC", "HWIO", "NHWC")

  def blur(x, padding):
    """Filters each channel separately."""
    kernel = np.tile(taps[:, :, None, None], (1, 1, 1, x.shape[-1]))
    return lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      [padding] * 2,
      dimension_numbers=numbers,
      feature_group_count=x.shape[-1],
    )

  def ours(resample, x):
    # All values are positive, so that the leaky ReLU is the identity.
    layer = stripped.ConvAct(2, 3, "float32", resample)
    params = {"conv": {"kernel": w}, "act": {"bias": np.zeros(2, "f4")}}
    return layer.apply({"params": params}, x)

  strided = lax.conv_general_dilated(
    blur(x, (2, 2)), w, (2, 2), "VALID", dimension_numbers=numbers
  )
  down = ours(downsample2x, x)
  assert down.shape == strided.shape == (1, 8, 8, 2)
  np.testing.assert_allclose(
    down[:, 1:-1, 1:-1], strided[:, 1:-1, 1:-1], rtol=1e-5
  )
  transposed = lax.conv_general_dilated(
    x,
    w,
    (1, 1),
    [(2, 2)] * 2,
    lhs_dilation=(2, 2),
    dimension_numbers=numbers,
  )
  spread = 4 * blur(transposed, (1, 1))
  up = ours(lambda y: y, upsample2x(x))
  assert up.shape == spread.shape == (1, 32, 32, 2)
  np.testing.assert_allclose(
    up[:, 2:-2, 2:-2], spread[:, 2:-2, 2:-2], rtol=1e-5
  )


def test_samples_are_independent(apply):
  """There is no minibatch standard deviation and no batch statistics."""
  generate, judge = apply
  order = np.array([2, 0, 3, 1])
  images = generate(_LATENTS, _LABELS)
  np.testing.assert_allclose(
    generate(_LATENTS[order], _LABELS[order]), images[order], atol=1e-5
  )
  logits = judge(_IMAGES, _LABELS)
  others = _IMAGES.copy()
  others[1:] = 0
  np.testing.assert_allclose(judge(others, _LABELS)[0], logits[0], atol=1e-5)
  assert np.ptp(logits) > 1e-3


def test_labels_matter_to_both(apply):
  generate, judge = apply
  others = (_LABELS + 1) % 3
  images = generate(_LATENTS, _LABELS) - generate(_LATENTS, others)
  assert np.abs(images).max(axis=(1, 2, 3)).min() > 1e-4
  logits = judge(_IMAGES, _LABELS) - judge(_IMAGES, others)
  assert np.abs(logits).min() > 1e-4


def test_classes_add_a_table_to_each_network_and_nothing_else():
  paths = {}
  for classes in (0, 3):
    spec = dataclasses.replace(_SPEC, num_classes=classes)
    made = stripped.make(spec)
    paths[classes] = [
      set(flatten(jax.eval_shape(n.init, jax.random.key(0))["params"]))
      for n in (made.g, made.d)
    ]
  for plain, conditional in zip(paths[0], paths[3], strict=True):
    assert conditional - plain == {"classes/embedding"}
    assert plain <= conditional


def test_g_starts_with_images_of_a_sensible_scale():
  spec = StrippedSpec(resolution=8, widths=(64, 64))
  made = stripped.make(spec)
  latents = _RANDOM.normal(size=(8, 64)).astype("f4")
  labels = np.zeros(8, "i4")

  @jax.jit
  def run(key):
    g = made.g.init(key)
    return g, made.g.apply(g, latents, labels, train=True)[0]

  g, images = run(jax.random.key(0))
  params = flatten(g["params"])
  assert not any(
    np.any(x) for path, x in params.items() if path.endswith("bias")
  )
  expected = {
    "basis": 1.0,
    "latents/kernel": 64**-0.5,
    "stage8_conv0/conv/kernel": (2 / 1.04) ** 0.5 * (9 * 64) ** -0.5,
    "stage8_to_rgb/conv/kernel": 64**-0.5,
  }
  for path, spread in expected.items():
    np.testing.assert_allclose(np.std(params[path]), spread, rtol=0.12)
  # The sum of two images of about unit variance, reduced by upsampling.
  assert 0.5 < np.std(images) < 3


def test_presets():
  preset = choose_preset(PRESETS, "B", "the stripped StyleGAN2")
  assert (preset.resolution, preset.latent_dim, preset.num_classes) == (
    256,
    64,
    0,
  )
  with pytest.raises(SpecError, match=r"'A' is not a preset .*; use one of B"):
    choose_preset(PRESETS, "A", "the stripped StyleGAN2")
