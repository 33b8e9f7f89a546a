"""The ADA pipeline: known colors and cutouts, statistics, and invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigscale.ops import augment
from bigscale.ops.augment import ada, colors, geometry
from bigscale.spec import SpecError

ALL = ("blit", "geometric", "color", "cutout")
draw_blit = jax.jit(geometry.draw_blit, static_argnums=1)
draw_geometric = jax.jit(geometry.draw_geometric, static_argnums=1)
draw_color = jax.jit(colors.draw, static_argnums=1)
pipe = jax.jit(augment.make("ada", ALL))


def _images(batch, side, channels=3, seed=0):
  rng = np.random.RandomState(seed)
  return rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)


@pytest.mark.parametrize(
  ("matrix", "rgb", "expected"),
  [
    (colors.brightness(jnp.array([0.25])), (0.1, -0.5, 0), (0.35, -0.25, 0.25)),
    (colors.contrast(jnp.array([2.0])), (0.1, -0.5, 0), (0.2, -1, 0)),
    # The luma, 0.2 on each channel, becomes -0.2.
    (colors.luma_flip(jnp.array([1.0])), (0.4, -0.1, 0.3), (0, -0.5, -0.1)),
    (colors.luma_flip(jnp.array([0.0])), (0.4, -0.1, 0.3), (0.4, -0.1, 0.3)),
    # Half a turn mirrors the difference from the luma, 0.2.
    (colors.hue(jnp.array([np.pi])), (0.4, -0.1, 0.3), (0, 0.5, 0.1)),
    # A third of a turn maps red to green, green to blue and blue to red.
    (
      colors.hue(jnp.array([2 * np.pi / 3])),
      (0.4, -0.1, 0.3),
      (0.3, 0.4, -0.1),
    ),
    (colors.saturation(jnp.array([0.0])), (0.4, -0.1, 0.3), (0.2, 0.2, 0.2)),
    (colors.saturation(jnp.array([2.0])), (0.4, -0.1, 0.3), (0.6, -0.4, 0.4)),
  ],
)
def test_colors_by_hand(matrix, rgb, expected):
  image = jnp.broadcast_to(jnp.array(rgb), (1, 2, 2, 3))
  mapped = colors.apply(image, matrix)
  np.testing.assert_allclose(mapped[0, 1, 0], expected, atol=1e-6)


def test_two_luma_flips_are_none():
  flip = colors.luma_flip(jnp.array([1.0]))[0]
  np.testing.assert_allclose(flip @ flip, np.eye(4), atol=1e-6)


def test_gray_equals_three_equal_channels():
  one = jnp.ones(1)
  # Brightness comes first, so contrast scales the shift.
  matrix = colors.luma_flip(one) @ colors.contrast(3 * one)
  matrix = matrix @ colors.brightness(0.2 * one)
  gray = jnp.asarray(_images(1, 4, 1))
  mapped = colors.apply(gray, matrix)
  np.testing.assert_allclose(mapped, -3 * (gray + 0.2), atol=1e-6)
  of_rgb = colors.apply(jnp.repeat(gray, 3, axis=-1), matrix)
  np.testing.assert_allclose(of_rgb, jnp.repeat(mapped, 3, axis=-1), atol=1e-6)


def test_cutout_by_hand():
  x = jnp.ones((3, 8, 8, 1))
  centres = jnp.array([[0.5, 0.25], [0.0, 1.0], [0.5, 0.5]])
  cut = ada.cut_out(x, centres, jnp.array([0.5, 0.5, 0.0]))[..., 0]
  expected = np.ones((3, 8, 8))
  expected[0, 0:4, 2:6] = (
    0  # The center is at the middle of x and a quarter of y.
  )
  expected[1, 6:, :2] = 0  # The center is the lower left corner.
  np.testing.assert_array_equal(cut, expected)


_COUNT = 20_000


def _uniform(columns):
  u = np.random.RandomState(columns).uniform(size=(_COUNT, columns))
  return jnp.asarray(u, jnp.float32)


def _is_share(flags, p):
  assert abs(np.mean(flags) - p) < 4 * np.sqrt(p * (1 - p) / _COUNT)


def _is_normal(values, std):
  assert abs(values.mean()) < 4 * std / np.sqrt(len(values))
  assert abs(values.std() - std) < 4 * std / np.sqrt(2 * len(values))


def test_statistics_of_blits():
  p = 0.3
  motion = draw_blit(_uniform(7), 64, p)
  m = np.asarray(motion.inverse_b33)
  _is_share(motion.drawn_b, 1 - (1 - p) ** 3)
  _is_share(np.linalg.det(m) < 0, p / 2)
  _is_share(np.abs(m[:, 0, 0]) < 0.5, p / 2)  # An odd number of quarter turns.
  shift = np.round(np.linalg.inv(m[:, :2, :2]) @ m[:, :2, 2:])
  moved = np.abs(shift).max(axis=(1, 2)) > 0
  # After rounding, one in 16 translations per direction is zero.
  _is_share(moved, p * (1 - 1 / 16**2))
  assert np.abs(shift).max() == 8
  # Rounded uniform numbers up to 8, without images that do not move.
  mean_square = (2 * sum(k**2 for k in range(8)) / 16 + 8**2 / 16) * 256 / 255
  np.testing.assert_allclose((shift[moved] ** 2).mean(), mean_square, rtol=0.04)
  still = m[~np.asarray(motion.drawn_b)]
  np.testing.assert_array_equal(still, np.broadcast_to(np.eye(3), still.shape))


def test_statistics_of_geometric_motions():
  p = 0.3
  motion = draw_geometric(_uniform(11), 64, p)
  m = np.asarray(motion.inverse_b33, np.float64)
  drawn = np.asarray(motion.drawn_b)
  _is_share(drawn, 1 - (1 - p) ** 4)
  np.testing.assert_array_equal(
    m[~drawn], np.broadcast_to(np.eye(3), m[~drawn].shape)
  )
  linear = m[:, :2, :2]
  zoom = -np.log2(np.linalg.det(linear)) / 2
  _is_share(np.abs(zoom) > 1e-5, p)
  _is_normal(zoom[np.abs(zoom) > 1e-5], 0.2)
  stretch = np.log2(np.linalg.svd(linear)[1])
  stretch = (stretch[:, 0] - stretch[:, 1]) / 2
  stretched = stretch > 1e-5
  _is_share(stretched, p)
  half_normal = stretch[stretched]
  np.testing.assert_allclose((half_normal**2).mean(), 0.2**2, rtol=0.08)
  turned = np.abs(linear[:, 0, 1]) > 1e-5
  # At least one rotation, with probability p.
  _is_share(turned, p)
  angle = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])[turned & ~stretched]
  assert abs(np.cos(angle).mean()) < 4 / np.sqrt(2 * len(angle))
  assert abs(np.cos(2 * angle).mean()) < 4 / np.sqrt(2 * len(angle))
  shift = np.linalg.solve(linear, m[:, :2, 2:])[..., 0] / 64
  moved = np.abs(shift[:, 0]) > 1e-5
  _is_share(moved, p)
  _is_normal(shift[moved].ravel(), 0.125)


def test_statistics_of_colors():
  p = 0.3
  drawn = draw_color(_uniform(10), 3, p)
  m = np.asarray(drawn.matrix_b44, np.float64)
  _is_share(drawn.drawn_b, 1 - (1 - p / 2) ** 5)
  # Changes of gray: contrast, luma flip or not, and shift.
  gain = m[:, :3, :3].sum(axis=(1, 2)) / 3
  _is_share(gain < 0, p / 4)
  contrast = np.log2(np.abs(gain))
  _is_share(np.abs(contrast) > 1e-5, p / 2)
  _is_normal(contrast[np.abs(contrast) > 1e-5], 0.5)
  shift = m[:, :3, 3].mean(axis=1) / gain
  _is_share(np.abs(shift) > 1e-6, p / 2)
  _is_normal(shift[np.abs(shift) > 1e-6], 0.2)
  # Changes across the luma axis: hue and saturation, in addition to contrast.
  u = np.array([1, -1, 0]) / np.sqrt(2)
  v = np.array([1, 1, -2]) / np.sqrt(6)
  across = np.stack([m[:, :3, :3] @ u @ u, m[:, :3, :3] @ u @ v], -1)
  saturation = np.log2(np.linalg.norm(across, axis=-1)) - contrast
  _is_share(np.abs(saturation) > 1e-4, p / 2)
  _is_normal(saturation[np.abs(saturation) > 1e-4], 1.0)
  turned = np.abs(np.arctan2(across[:, 1], across[:, 0])) > 1e-4
  _is_share(turned, p / 2)


@pytest.fixture(scope="module")
def at_32px():
  x = jnp.asarray(_images(16, 32))
  return x, pipe(jax.random.key(5), x, jnp.float32(0.6))


def test_probability_zero_is_the_identity_bit_for_bit(at_32px):
  x, augmented = at_32px
  untouched = pipe(jax.random.key(5), x, jnp.float32(0))
  assert np.asarray(untouched).tobytes() == np.asarray(x).tobytes()
  assert augmented.shape == x.shape
  assert augmented.dtype == x.dtype
  assert np.isfinite(augmented).all()


def test_probability_one_changes_every_image(at_32px):
  x, _ = at_32px
  changed = pipe(jax.random.key(6), x, jnp.float32(1)) != x
  assert changed.any(axis=(1, 2, 3)).all()
  # The cutout covers a quarter of each image, less the part beyond its border.
  again = pipe(jax.random.key(6), x, jnp.float32(1))
  assert ((again == 0).all(axis=-1).mean(axis=(1, 2)) >= 1 / 16).all()


def test_eight_devices_equal_one(at_32px):
  x, expected = at_32px
  mesh = Mesh(np.array(jax.devices()), ("data",))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  sharded = pipe(jax.random.key(5), jax.device_put(x, rows), jnp.float32(0.6))
  assert len(sharded.sharding.device_set) == 8
  np.testing.assert_allclose(sharded, expected, atol=1e-6)


def test_gradient_penalty_through_the_pipe():
  """Compares R1's gradient, a second derivative, with finite differences."""

  def score(x):
    return jnp.tanh(2 * pipe(jax.random.key(1), x, jnp.float32(0.9))).sum()

  def penalty(x):
    return (jax.grad(score)(x) ** 2).sum()

  with jax.enable_x64(True):
    x = jnp.asarray(_images(4, 4, 1), jnp.float64)
    along = jnp.asarray(_images(4, 4, 1, seed=1), jnp.float64)
    value_and_gradient = jax.jit(jax.value_and_grad(penalty))
    after, _ = value_and_gradient(x + 1e-5 * along)
    before, _ = value_and_gradient(x - 1e-5 * along)
    _, gradient = value_and_gradient(x)
    slope = (gradient * along).sum()
    assert abs(slope) > 0.01
    np.testing.assert_allclose((after - before) / 2e-5, slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_dtype_are_kept(dtype, channels):
  x = jax.ShapeDtypeStruct((2, 8, 8, channels), dtype)
  out = jax.eval_shape(pipe, jax.random.key(0), x, jnp.float32(0.5))
  assert (out.shape, out.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
  ("shape", "message"), [((2, 8, 8, 2), "C = 1"), ((2, 8, 6, 3), "8x6")]
)
def test_images_of_other_shapes_are_refused(shape, message):
  with pytest.raises(SpecError, match=message):
    pipe(jax.random.key(0), jnp.zeros(shape), jnp.float32(0.5))


def test_make_refuses_unknown_names():
  with pytest.raises(SpecError, match="diffaugment, ada"):
    augment.make("adda", ())
  with pytest.raises(SpecError, match="it has blit, geometric"):
    augment.make("ada", ("translation",))
