"""Measurements of images inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.monitor.anchors import measure


def _images(count: int = 6, side: int = 8, channels: int = 3) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_columns_are_colors_contrasts_and_covariances(channels):
  images = _images(channels=channels)
  found = np.asarray(measure.pixel_columns(images))
  x = images.astype(np.float64) / 127.5 - 1
  pairs = channels * (channels + 1) // 2
  assert found.shape == (6, 16 * (channels + 2) + pairs)
  cell = x[2, 2:4, 4:6].mean((0, 1))
  start = (1 * 4 + 2) * (channels + 2)
  np.testing.assert_allclose(
    found[2, start : start + channels], cell, atol=1e-5
  )
  flat = x[2].reshape(-1, channels)
  covariance = np.cov(flat.T, bias=True).reshape(channels, channels)
  upper = covariance[np.triu_indices(channels)]
  np.testing.assert_allclose(found[2, -pairs:], upper, atol=1e-5)


def test_hashes_tell_images_apart():
  images = _images(2000, 4, 1)
  found = np.asarray(measure.hashes(images))
  assert found.shape == (2000, 2)
  for half in found.T:
    assert len(np.unique(half)) >= 1999
  again = np.asarray(measure.hashes(images[::-1][None]))[0, ::-1]
  np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("change", ["pixel", "mirror", "channels", "shift"])
def test_similar_images_have_other_hashes(change):
  images = _images()
  other = images.copy()
  match change:
    case "pixel":
      other[:, 3, 3, 1] ^= 1
    case "mirror":
      other = other[:, :, ::-1]
    case "channels":
      other = other[..., ::-1]
    case "shift":
      other = np.roll(other, 1, axis=1)
  before, after = (np.asarray(measure.hashes(x)) for x in (images, other))
  assert (before != after).all()


def test_features_are_projected_to_fixed_directions():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 300)))
  found = measure.project(x, 64)
  assert found.shape == (5, 64)
  np.testing.assert_allclose(found, measure.project(x, 64))
  # Squares of distances are kept on average, up to 64 / 300.
  ratio = jnp.sum(found**2, axis=1) / jnp.sum(x**2, axis=1)
  np.testing.assert_allclose(jnp.mean(ratio), 64 / 300, rtol=0.3)
  assert measure.project(x[:, :10], 64).shape == (5, 10)


def test_a_split_tensor_has_the_same_sketch_and_is_not_gathered():
  mesh = jax.make_mesh((8,), ("x",))
  x = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
  split = jax.device_put(x, NamedSharding(mesh, P("x", None)))
  sketch = jax.jit(measure.sketch, out_shardings=NamedSharding(mesh, P()))
  for a, b in zip(sketch({"x": split}), measure.sketch({"x": x}), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
  program = sketch.lower({"x": split}).compile().as_text()
  assert "all-gather" not in program
