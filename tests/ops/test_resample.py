"""The resamplers compared with zero insertion and an explicit filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.ops import resample

upsample2x = jax.jit(resample.upsample2x)
downsample2x = jax.jit(resample.downsample2x)
_TAPS = np.array([1, 3, 3, 1]) / 8


def _images(side=(6, 4)):
  return np.random.RandomState(0).normal(size=(2, *side, 3)).astype(np.float32)


def _filter(x, axis, before, after):
  """Correlates with `_TAPS` along one axis, with zero padding."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (before, after)
  x = np.pad(x, padding)
  size = x.shape[axis] - 3
  return sum(
    tap * np.take(x, np.arange(i, i + size), axis)
    for i, tap in enumerate(_TAPS)
  )


def _up(x, axis):
  shape = list(x.shape)
  shape[axis] *= 2
  y = np.zeros(shape)
  index = [slice(None)] * x.ndim
  index[axis] = slice(0, None, 2)
  y[tuple(index)] = x
  # StyleGAN's padding for a 4-tap filter; the gain preserves the mean.
  return 2 * _filter(y, axis, 2, 1)


def _down(x, axis):
  y = _filter(x, axis, 1, 1)
  return np.take(y, np.arange(0, y.shape[axis], 2), axis)


def test_upsample_is_zero_insertion_and_filter():
  x = _images()
  expected = _up(_up(x, 1), 2)
  np.testing.assert_allclose(upsample2x(jnp.asarray(x)), expected, atol=1e-6)


def test_downsample_is_filter_and_subsampling():
  x = _images()
  expected = _down(_down(x, 1), 2)
  np.testing.assert_allclose(downsample2x(jnp.asarray(x)), expected, atol=1e-6)


def test_downsample_is_a_quarter_of_the_transpose_of_upsample():
  x, y = jnp.asarray(_images((3, 2))), jnp.asarray(_images())
  (transposed,) = jax.vjp(upsample2x, x)[1](y)
  np.testing.assert_allclose(downsample2x(y), transposed / 4, atol=1e-6)


@pytest.mark.parametrize(
  ("halve_or_double", "shape"),
  [(upsample2x, (1, 16, 16, 1)), (downsample2x, (1, 4, 4, 1))],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_constants_stay_inside_the_border(halve_or_double, shape, dtype):
  y = halve_or_double(jnp.ones((1, 8, 8, 1), dtype))
  assert y.shape == shape
  assert y.dtype == dtype
  np.testing.assert_array_equal(y[:, 1:-1, 1:-1].astype(jnp.float32), 1)
  # Values beyond the border are zero.
  assert float(y[0, 0, 0, 0]) < 1
