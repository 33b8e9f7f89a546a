"""Resampling compared with a slow NumPy version and known motions."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from bigscale.ops.augment import geometry, moves
from bigscale.ops.augment import warp as warping

warp = jax.jit(warping.warp)
blit = jax.jit(moves.blit)


def _images(batch, side, channels=3, seed=0):
  rng = np.random.RandomState(seed)
  return rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)


def _grid(side):
  """Returns x and y relative to the center, y downwards."""
  centred = np.arange(side) - (side - 1) / 2
  return np.meshgrid(centred, centred)


def _smooth(side):
  x, y = _grid(side)
  wave = np.cos(2 * np.pi * x / side + 0.3) * np.sin(1.5 * np.pi * y / side)
  return (wave + x / side)[None, :, :, None].astype(np.float32)


@jax.jit
def _motion(turn, x_scale, y_scale, x_shift, y_shift, flip):
  one = jnp.ones((1,))
  return geometry.compose(
    geometry.scale(flip * one, one),
    geometry.rotate(turn * one),
    geometry.scale(x_scale * one, y_scale * one),
    geometry.translate(x_shift * one, y_shift * one),
  )


def _inverse(turn=0.0, scale=(1.0, 1.0), shift=(0.0, 0.0), flip=1.0):
  return np.asarray(_motion(turn, *map(float, (*scale, *shift)), flip))


def _slow_warp(image, inverse):
  """Warps one [N, N] channel in explicit steps, with inserted zeros."""
  side, taps = len(image), warping._FILTER
  x = np.pad(image.astype(np.float64), side - 1, mode="reflect")
  for axis in range(2):
    shape = list(x.shape)
    shape[axis] *= 2
    fine = np.zeros(shape)
    fine[(slice(None),) * axis + (slice(None, None, 2),)] = x
    # The authors' padding for 12 taps: 6 before and 5 after.
    x = np.apply_along_axis(
      lambda v: np.convolve(np.pad(v, (6, 5)), 2 * taps, "valid"), axis, fine
    )
  out = 2 * (side + 6)
  q = np.arange(out) - (out - 1) / 2
  half = lambda s: np.array([[1, 0, s], [0, 1, s], [0, 0, 1]])  # noqa: E731
  double = np.diag([2, 2, 1.0])
  matrix = half(-0.5) @ double @ inverse @ np.linalg.inv(double) @ half(0.5)
  places = np.stack([*np.meshgrid(q, q), np.ones((out, out))])
  x_in, y_in, _ = np.einsum("ij,jhw->ihw", matrix, places)
  middle = (len(x) - 1) / 2
  x = scipy.ndimage.map_coordinates(
    x, [y_in + middle, x_in + middle], order=1, mode="grid-constant"
  )
  for axis in range(2):
    x = np.apply_along_axis(
      lambda v: np.correlate(v[1:-1], taps, "valid")[::2], axis, x
    )
  return x


def test_warp_is_pad_double_sample_halve():
  inverses = np.concatenate(
    [
      _inverse(),
      _inverse(turn=0.7),
      _inverse(turn=-2.5, scale=(1.3, 0.8), shift=(1.3, -2.2)),
      # A scale so small that positions lie beyond the reflected margin.
      _inverse(turn=0.4, scale=(0.2, 0.3), shift=(3, 1)),
      _inverse(flip=-1.0, shift=(-4.6, 0.1)),
    ]
  )
  x = _images(5, 8)
  expected = np.stack(
    [
      np.stack([_slow_warp(a[..., c], m) for c in range(3)], -1)
      for a, m in zip(x, inverses, strict=True)
    ]
  )
  np.testing.assert_allclose(warp(x, inverses), expected, atol=2e-5)


def test_warp_reproduces_whole_translations():
  x = _images(5, 8)
  inverse = np.concatenate(
    [_inverse(shift=s) for s in ((0, 0), (1, 0), (0, -1), (2, 1), (-3, 2))]
  )
  warped = warp(x, inverse)
  np.testing.assert_allclose(warped, blit(x, inverse), atol=1e-6)
  np.testing.assert_allclose(warped[0], x[0], atol=1e-6)


def test_bands_do_not_change_the_result(monkeypatch):
  x, inverse = _images(1, 8), _inverse(turn=0.7, shift=(1, 2))
  whole = warp(np.repeat(x, 5, 0), np.repeat(inverse, 5, 0))[:1]
  monkeypatch.setattr(warping, "_BAND_BYTES", 28 * 8 * 3 * 4 * 4)
  assert warping._band_rows(8, 28, 3, 4) == 4
  banded = jax.jit(lambda *a: warping.warp(*a))(x, inverse)
  np.testing.assert_allclose(banded, whole, atol=1e-6)


def test_linear_images_stay_linear():
  side = 16
  x, y = _grid(side)
  image = (0.05 * x - 0.03 * y + 0.2)[None, :, :, None].astype(np.float32)
  inverse = _inverse(turn=0.6, scale=(2.2, 1.8), shift=(0.7, -0.4))
  warped = np.asarray(warp(image, inverse))[0, :, :, 0]
  columns = np.stack([x, y, np.ones_like(x)], -1)
  inner = slice(4, -4)
  fit, *_ = np.linalg.lstsq(
    columns[inner, inner].reshape(-1, 3), warped[inner, inner].ravel()
  )
  np.testing.assert_allclose(
    warped[inner, inner], (columns @ fit)[inner, inner], atol=2e-6
  )
  expected = np.array([0.05, -0.03, 0.2]) @ inverse[0]
  np.testing.assert_allclose(fit[:2], expected[:2], atol=1e-5)
  # The filter's center is off by 0.05 pixels, so the image shifts; rotated, it
  # shifts back.
  np.testing.assert_allclose(fit[2], expected[2], atol=4e-3)


def test_smooth_image_at_twice_the_size():
  side = 16
  x, y = _grid(side)
  f = lambda x, y: np.cos(0.4 * x + 0.2) * np.sin(0.3 * y)  # noqa: E731
  image = f(x, y)[None, :, :, None].astype(np.float32)
  warped = np.asarray(warp(image, _inverse(scale=(2.0, 2.0))))[0, :, :, 0]
  np.testing.assert_allclose(warped, f(x / 2, y / 2), atol=0.02)


def test_blit_moves_pixels():
  x = _images(6, 8)
  quarter = np.pi / 2
  inverse = np.concatenate(
    [
      _inverse(flip=-1.0),
      _inverse(turn=quarter),
      _inverse(turn=2 * quarter),
      _inverse(turn=3 * quarter),
      _inverse(shift=(3, -2)),
      _inverse(flip=-1.0, turn=quarter, shift=(1, 2)),
    ]
  )

  def shift(image, right, down):
    padded = np.pad(image, [(7, 7), (7, 7), (0, 0)], mode="reflect")
    return padded[7 - down : 15 - down, 7 - right : 15 - right]

  expected = [
    x[0, :, ::-1],
    np.rot90(x[1]),
    np.rot90(x[2], 2),
    np.rot90(x[3], 3),
    shift(x[4], 3, -2),
    shift(np.rot90(x[5, :, ::-1]), 1, 2),
  ]
  np.testing.assert_array_equal(blit(x, inverse), np.stack(expected))
  smooth = np.repeat(_smooth(8), 3, -1).repeat(5, 0)
  np.testing.assert_allclose(
    warp(smooth, inverse[1:]), blit(smooth, inverse[1:]), atol=0.15
  )


def test_flip_by_the_filter_is_as_documented():
  x = np.zeros((5, 8, 8, 3), np.float32)
  x[0, 4, 3] = 1
  warped = warp(x, np.repeat(_inverse(flip=-1.0), 5, 0))[0, 4, :, 0]
  assert 0.96 < warped[4] < 0.97
  assert np.abs(np.delete(np.asarray(warped), 4)).max() < 0.1
