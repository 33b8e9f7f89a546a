"""The monitor's measurements agree with NumPy and SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from bigscale.monitor import probes

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(12, 7)).astype("f4") * np.arange(1, 8, dtype="f4")


def trees():
  a = {"x": RNG.normal(size=(3, 4)).astype("f4"), "y": {"z": np.float32(2)}}
  b = {"x": RNG.normal(size=(3, 4)).astype("f4"), "y": {"z": np.float32(-1)}}
  return a, b


def flat(tree):
  return np.append(tree["x"].ravel(), tree["y"]["z"])


def test_norm_and_distance_are_of_all_leaves_together():
  a, b = trees()
  assert probes.norm(a) == pytest.approx(np.linalg.norm(flat(a)))
  wanted = np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))
  assert probes.distance(a, b) == pytest.approx(wanted)
  assert probes.distance(a, a) == 0


def test_norms_do_not_overflow_in_half_precision():
  """300^2 overflows float16, and bfloat16 has 8 bits of precision."""
  tree = {"x": jnp.full(1000, 300, jnp.float16)}
  assert probes.norm(tree) == pytest.approx(300 * np.sqrt(1000), rel=1e-6)
  ones = {"x": jnp.ones(1000, jnp.bfloat16)}
  assert probes.norm(ones) == pytest.approx(np.sqrt(1000), rel=1e-6)
  assert probes.norm(ones).dtype == jnp.float32


def test_distance_from_nothing_is_a_number():
  a, b = trees()
  zero = {"x": 0 * b["x"], "y": {"z": 0 * b["y"]["z"]}}
  assert np.isfinite(probes.distance(a, zero))


def test_movement_says_what_an_update_did():
  a, b = trees()
  params = {"x": np.array([1, np.nan, np.inf, -np.inf, 0], "f4")}
  moved = probes.movement(a, b, params)
  assert moved["grad_norm"] == pytest.approx(np.linalg.norm(flat(a)))
  assert moved["update_norm"] == pytest.approx(np.linalg.norm(flat(b)))
  assert moved["nonfinite"] == 3
  assert not np.isfinite(moved["weight_norm"])
  sound = probes.movement(a, b, a)
  assert sound["nonfinite"] == 0
  assert sound["weight_norm"] == pytest.approx(np.linalg.norm(flat(a)))


def test_mean_pairwise_distance_is_scipys():
  wanted = np.mean(pdist(FEATURES.astype("f8")))
  got = probes.mean_pairwise_distance(jnp.asarray(FEATURES))
  assert got == pytest.approx(wanted, rel=1e-5)


def test_pairwise_distances_survive_a_far_origin():
  """Features of a trained D are far from zero."""
  far = FEATURES + np.float32(300)
  wanted = np.mean(pdist(far.astype("f8")))
  got = probes.mean_pairwise_distance(jnp.asarray(far))
  assert got == pytest.approx(wanted, rel=1e-4)


def test_equal_samples_have_no_distance_and_no_rank():
  same = jnp.asarray(np.repeat(FEATURES[:1], 6, axis=0))
  assert probes.mean_pairwise_distance(same) == pytest.approx(0, abs=1e-5)
  assert probes.effective_rank(jnp.ones((6, 4))) == 0


def test_effective_rank_is_that_of_the_eigenvalues():
  values = np.linalg.eigvalsh(np.cov(FEATURES.T.astype("f8")))
  wanted = np.sum(values) ** 2 / np.sum(values**2)
  got = probes.effective_rank(jnp.asarray(FEATURES))
  assert got == pytest.approx(wanted, rel=1e-5)
  # Also with fewer samples than features.
  few = FEATURES[:4]
  values = np.linalg.eigvalsh(np.cov(few.T.astype("f8")))
  wanted = np.sum(values) ** 2 / np.sum(values**2)
  assert probes.effective_rank(jnp.asarray(few)) == pytest.approx(
    wanted, rel=1e-5
  )


@pytest.mark.parametrize("rank", [1, 3])
def test_effective_rank_of_equal_directions_counts_them(rank):
  """A simplex with rank + 1 corners has equal variance in all directions."""
  corners = np.eye(rank + 1, 8, dtype="f4")
  got = probes.effective_rank(jnp.asarray(np.tile(corners, (5, 1))))
  assert got == pytest.approx(rank, rel=1e-5)


def images(count=6):
  return RNG.uniform(-0.5, 0.5, (count, 8, 8, 3)).astype("f4")


def apart(a, b):
  """Returns the largest difference of the mean statistics of two sets."""
  mean_a, mean_b = (
    np.mean(probes.pixel_statistics(jnp.asarray(x)), axis=0) for x in (a, b)
  )
  return np.max(np.abs(mean_a - mean_b))


def test_pixel_statistics_are_cell_means_of_color_and_contrast():
  x = images(2)
  got = np.asarray(probes.pixel_statistics(jnp.asarray(x)))
  assert got.shape == (2, 4 * 4 * 6)
  maps = got.reshape(2, 4, 4, 6)
  np.testing.assert_allclose(
    maps[1, 2, 3, :3], x[1, 4:6, 6:8].mean(axis=(0, 1)), rtol=1e-5
  )
  # In an inner cell, all four pixels have right and lower neighbors.
  cell = x[0, 2:4, 2:4]
  right = np.abs(x[0, 2:4, 3:5] - cell)
  down = np.abs(x[0, 3:5, 2:4] - cell)
  np.testing.assert_allclose(
    maps[0, 1, 1, 3:], (right + down).mean(axis=(0, 1)), rtol=1e-4
  )


def checkerboard(x):
  """Returns images with the same cell means and another contrast."""
  sign = (-1.0) ** np.add.outer(np.arange(8), np.arange(8))
  return x + 0.3 * sign[None, :, :, None].astype("f4")


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x + 0.2,
    lambda x: x * np.array([1.0, 1.0, 0.0], "f4") + np.float32(0.1),
    lambda x: x[..., ::-1] * np.array([0.2, 1, 1], "f4") + 0.1,
    checkerboard,
    lambda x: 0 * x + x.mean(axis=(1, 2), keepdims=True),
    lambda x: np.where(np.arange(8)[None, :, None, None] < 4, x, x - 0.3),
    lambda x: np.where(np.arange(8)[None, None, :, None] < 4, x, x - 0.3),
  ],
  ids=["bright", "no_blue", "tint", "checker", "flat", "lower", "right"],
)
def test_pixel_statistics_see(change):
  x = images()
  assert apart(x, x) == 0
  assert apart(x, change(x).astype("f4")) > 0.05


@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (3, 16, 16, 3)])
def test_pixel_statistics_at_every_side(shape):
  got = probes.pixel_statistics(jnp.zeros(shape))
  assert got.shape == (3, 16 * 2 * shape[-1])
  np.testing.assert_array_equal(got, 0)


def test_moment_distance_is_0_for_equal_and_1_for_one_mean_image():
  reals = jnp.asarray(FEATURES)
  assert probes.moment_distance(reals, reals) == 0
  # Moments do not depend on the order of the samples.
  assert probes.moment_distance(reals[::-1], reals) == pytest.approx(
    0, abs=1e-6
  )
  mean = jnp.broadcast_to(reals.mean(axis=0), reals.shape)
  assert probes.moment_distance(mean, reals) == pytest.approx(1, rel=1e-5)
  shifted = reals + 2 * jnp.std(reals, axis=0, keepdims=True)
  assert probes.moment_distance(shifted, reals) == pytest.approx(4, rel=1e-4)


def test_moment_distance_to_equal_reals_is_a_number():
  assert np.isfinite(
    probes.moment_distance(jnp.asarray(FEATURES), jnp.ones((12, 7)))
  )


def test_heldout_gap_runs_from_0_to_1():
  real, fake = jnp.array([2.0, 4.0]), jnp.array([-1.0, -3.0])
  assert probes.heldout_gap(real, real, fake) == 0
  assert probes.heldout_gap(real, fake, fake) == 1
  halfway = jnp.array([0.0, 1.0])
  assert probes.heldout_gap(real, halfway, fake) == pytest.approx(0.5)
  # D does not distinguish reals from fakes.
  assert np.isfinite(probes.heldout_gap(real, real, real))
