"""DiffAugment compared with manual examples and the ranges of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from bigscale.ops import augment
from bigscale.ops.augment import diffaugment
from bigscale.spec import SpecError

ALL = ("color", "translation", "cutout")
pipe = jax.jit(augment.make("diffaugment", ALL))
translation = jax.jit(augment.make("diffaugment", ("translation",)))
cutout = jax.jit(augment.make("diffaugment", ("cutout",)))
color = jax.jit(augment.make("diffaugment", ("color",)))
_COUNT = 4096
_SIDE = 16


def _images(shape, seed=0):
  rng = np.random.RandomState(seed)
  return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


def _is_share(flags, p):
  count = flags.size
  assert abs(np.mean(flags) - p) < 4 * np.sqrt(p * (1 - p) / count)


def test_color_by_hand():
  x = jnp.array([[0.4, -0.1, 0.3], [0.0, 0.0, 0.0]]).reshape(1, 1, 2, 3)
  one = jnp.ones(1)
  shifted = diffaugment.color(x, 0.5 * one, one, one)
  np.testing.assert_allclose(shifted, x + 0.5, atol=1e-6)
  gray = diffaugment.color(x, 0 * one, 0 * one, one)
  np.testing.assert_allclose(gray[0, 0], [[0.2] * 3, [0] * 3], atol=1e-6)
  # Around the image's mean, 0.1, after the shift.
  flat = diffaugment.color(x, 0.5 * one, one, 0.5 * one)
  expected = [[0.75, 0.5, 0.7], [0.55] * 3]
  np.testing.assert_allclose(flat[0, 0], expected, atol=1e-6)


def test_translation_by_hand():
  x = _images((2, 6, 5, 3))
  moved = diffaugment.translate(x, jnp.array([2, 0]), jnp.array([-1, 5]))
  expected = np.zeros((2, 6, 5, 3))
  expected[0, :4, 1:] = x[0, 2:, :-1]
  np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
  ("side", "centre", "zeros"),
  [
    (8, 4, range(2, 6)),
    (8, 0, range(0, 2)),
    (8, 8, range(6, 8)),
    (6, 0, range(0, 2)),
    (6, 5, range(4, 6)),
  ],
)
def test_cutout_by_hand(side, centre, zeros):
  x = jnp.ones((1, side, 4, 1))
  cut = diffaugment.cut_out(x, jnp.array([centre]), jnp.array([2]))
  expected = np.ones((1, side, 4, 1))
  expected[0, list(zeros), 1:3] = 0
  # Half of 4 columns, centered on the third.
  np.testing.assert_array_equal(cut, expected[:, :, [0, 1, 2, 3]])


def test_translations_drawn():
  """Translations are uniform over whole pixels up to an eighth of the side."""
  marked = jnp.zeros((_COUNT, _SIDE, _SIDE, 1)).at[:, 8, 8].set(1)
  moved = translation(jax.random.key(0), marked, jnp.float32(1))
  counts = np.asarray(moved).sum(axis=(0, 3))
  assert counts.sum() == counts[6:11, 6:11].sum() == _COUNT
  spread = 4 * np.sqrt(_COUNT / 25)
  assert np.abs(counts[6:11, 6:11] - _COUNT / 25).max() < spread


def test_cutouts_drawn():
  """Cutouts have half of each side and one of the 17 centers 0 to 16."""
  x = jnp.ones((_COUNT, _SIDE, _SIDE, 1))
  cut = np.asarray(cutout(jax.random.key(1), x, jnp.float32(1))) == 0
  for axis in (1, 2):
    covered = cut.any(axis=3 - axis).sum(axis=1)
    assert set(covered.ravel()) == {4, 5, 6, 7, 8}
    _is_share(covered == 8, 9 / 17)
    _is_share(covered == 4, 2 / 17)


def test_each_transform_is_drawn_with_the_probability():
  x = jnp.ones((_COUNT, _SIDE, _SIDE, 1))
  p = jnp.float32(0.3)
  cut = np.asarray(cutout(jax.random.key(2), x, p) == 0).any(axis=(1, 2, 3))
  _is_share(cut, 0.3)
  moved = np.asarray(translation(jax.random.key(2), x, p) == 0)
  moved = moved.any(axis=(1, 2, 3))
  # One of five shifts is zero, in each direction.
  _is_share(moved, 0.3 * 24 / 25)
  # The transforms are independent.
  _is_share(cut & moved, 0.3 * 0.3 * 24 / 25)
  x = _images((_COUNT, 2, 2, 3))
  changed = np.asarray(color(jax.random.key(2), x, p) != x)
  _is_share(changed.any(axis=(1, 2, 3)), 0.3)


def test_colors_drawn():
  x = _images((_COUNT, 2, 2, 3))
  y = color(jax.random.key(3), x, jnp.float32(1))
  shift = y.mean(axis=(1, 2, 3)) - x.mean(axis=(1, 2, 3))
  np.testing.assert_allclose([shift.min(), shift.max()], [-0.5, 0.5], atol=0.01)
  luma_x, luma_y = (
    v.mean(3) - v.mean((1, 2, 3))[:, None, None] for v in (x, y)
  )
  contrast = np.asarray((luma_x * luma_y).sum((1, 2)) / (luma_x**2).sum((1, 2)))
  np.testing.assert_allclose(
    [contrast.min(), contrast.max()], [0.5, 1.5], atol=0.01
  )
  x -= x.mean(3, keepdims=True)
  y -= y.mean(3, keepdims=True)
  factor = (x * y).sum((1, 2, 3)) / (x**2).sum((1, 2, 3)) / contrast
  np.testing.assert_allclose([factor.min(), factor.max()], [0, 2], atol=0.01)


def test_probability_zero_is_the_identity_bit_for_bit():
  x = _images((16, 32, 32, 3))
  untouched = pipe(jax.random.key(5), x, jnp.float32(0))
  assert np.asarray(untouched).tobytes() == np.asarray(x).tobytes()


def test_eight_devices_equal_one():
  x = _images((16, 32, 32, 3))
  p = jnp.float32(0.6)
  expected = pipe(jax.random.key(5), x, p)
  assert (expected != x).any()
  mesh = Mesh(np.array(jax.devices()), ("data",))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  sharded = pipe(jax.random.key(5), jax.device_put(x, rows), p)
  assert len(sharded.sharding.device_set) == 8
  np.testing.assert_allclose(sharded, expected, atol=1e-6)


def test_a_transform_does_not_depend_on_the_others():
  x, p = _images((16, 32, 32, 3)), jnp.float32(0.6)
  cut = cutout(jax.random.key(5), x, p) == 0
  assert cut.any()
  assert (pipe(jax.random.key(5), x, p)[cut] == 0).all()


def test_derivatives_to_second_order():
  one = jnp.array([1])

  @jax.jit
  def score(x):
    x = diffaugment.color(x, 0.2 * one, 1.4 * one, 0.7 * one)
    x = diffaugment.translate(x, one, -one)
    return jnp.tanh(diffaugment.cut_out(x, one, one)).sum()

  with jax.enable_x64(True):
    x = jnp.asarray(_images((1, 4, 4, 3)), jnp.float64)
    check_grads(score, (x,), order=2, modes=["rev"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_dtype_are_kept(dtype, channels):
  x = jax.ShapeDtypeStruct((2, 8, 6, channels), dtype)
  out = jax.eval_shape(pipe, jax.random.key(0), x, jnp.float32(0.5))
  assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_images_of_other_shapes_are_refused():
  with pytest.raises(SpecError, match="C = 1"):
    pipe(jax.random.key(0), jnp.zeros((2, 8, 8, 4)), jnp.float32(0.5))


def test_no_pipe_returns_the_images():
  x = _images((2, 4, 4, 3))
  same = augment.make("none", ())(jax.random.key(0), x, jnp.float32(1))
  assert same is x
