"""Batch norms, compared with hand-written formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.models.norms import (
  AffineBatchNorm,
  BatchNorm,
  ConditionalBatchNorm,
)


def _maps(scale=3.0, shift=2.0, channels=4):
  random = np.random.RandomState(0)
  return (scale * random.normal(size=(5, 3, 2, channels)) + shift).astype("f4")


def test_training_normalizes_and_records_the_unbiased_variance():
  x = _maps()
  norm = BatchNorm(momentum=0.9, epsilon=1e-5)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(np.var(y, (0, 1, 2)), 1, atol=1e-4)
  stats = changed["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(
    stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5
  )


def test_initialization_records_nothing():
  norm = BatchNorm(momentum=0.9, epsilon=1e-5)
  stats = norm.init(jax.random.key(0), _maps(), train=True)["batch_stats"]
  np.testing.assert_array_equal(stats["mean"], 0)
  np.testing.assert_array_equal(stats["var"], 1)


def test_sampling_uses_the_running_statistics():
  x = _maps()
  stats = {"mean": jnp.arange(4.0), "var": jnp.full(4, 4.0)}
  y = BatchNorm(momentum=0.9, epsilon=0.0).apply(
    {"batch_stats": stats}, x, train=False
  )
  np.testing.assert_allclose(y, (x - np.arange(4)) / 2, atol=1e-5)


def test_statistics_are_float32_for_half_precision_maps():
  x = jnp.asarray(_maps(), jnp.bfloat16)
  norm = BatchNorm(momentum=0.9, epsilon=1e-5)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  assert y.dtype == jnp.bfloat16
  assert changed["batch_stats"]["var"].dtype == jnp.float32


def test_affine_scales_and_shifts_channels():
  x = _maps()
  norm = AffineBatchNorm(0.9, 1e-5, "float32")
  variables = norm.init(jax.random.key(0), x, train=True)
  gain, bias = jnp.array([1.0, 2.0, 0.5, 0.0]), jnp.arange(4.0)
  variables = {**variables, "params": {"gain": gain, "bias": bias}}
  y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(np.mean(y, (0, 1, 2)), bias, atol=1e-5)
  np.testing.assert_allclose(np.std(y, (0, 1, 2)), gain, atol=1e-4)


def test_conditional_gain_is_one_plus_a_linear_map():
  x, condition = _maps(), jnp.ones((5, 3))
  norm = ConditionalBatchNorm(0.9, 1e-5, "float32")
  variables = norm.init(jax.random.key(0), x, condition, train=True)

  def apply(gain):
    params = {
      "gain": {"kernel": jnp.full((3, 4), gain / 3)},
      "bias": {"kernel": jnp.zeros((3, 4))},
    }
    y, _ = norm.apply(
      {**variables, "params": params},
      x,
      condition,
      train=True,
      mutable=["batch_stats"],
    )
    return np.std(y, (0, 1, 2))

  np.testing.assert_allclose(apply(0.0), 1, atol=1e-4)
  np.testing.assert_allclose(apply(0.5), 1.5, atol=1e-4)
  np.testing.assert_allclose(apply(-1.0), 0, atol=1e-4)


def test_labels_choose_rows_of_gain_and_bias():
  x, labels = _maps(), jnp.array([0, 1, 1, 0, 2])
  norm = ConditionalBatchNorm(0.9, 1e-5, "float32", num_classes=3)
  variables = norm.init(jax.random.key(0), x, labels, train=True)
  params = {
    "gain": {"embedding": jnp.tile(jnp.array([[-1.0], [0.0], [1.0]]), (1, 4))},
    "bias": {"embedding": jnp.tile(jnp.array([[5.0], [0.0], [-5.0]]), (1, 4))},
  }
  stats = {"norm": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}
  y = norm.apply(
    {"params": params, "batch_stats": stats}, x, labels, train=False
  )
  np.testing.assert_allclose(y[0], 5)
  np.testing.assert_allclose(y[1], x[1], rtol=1e-4)
  np.testing.assert_allclose(y[4], 2 * x[4] - 5, rtol=1e-4, atol=1e-4)
  assert set(variables["params"]["gain"]) == {"embedding"}


def _error_where_means_are_large(mean):
  """Returns the variance's relative error in training at |mean| / std = 100."""
  random = np.random.RandomState(1)
  x = (100 + random.normal(size=(16, 8, 8, 32))).astype("f4")
  stats = {"mean": jnp.full(32, mean, "f4"), "var": jnp.ones(32)}
  _, changed = BatchNorm(momentum=0.0, epsilon=1e-5).apply(
    {"batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  exact = x.astype("f8").var((0, 1, 2), ddof=1)
  found = np.asarray(changed["batch_stats"]["var"], "f8")
  np.testing.assert_allclose(
    changed["batch_stats"]["mean"], x.astype("f8").mean((0, 1, 2)), rtol=1e-6
  )
  return np.max(np.abs(found / exact - 1))


def test_variances_are_exact_where_means_are_large():
  """The running mean is an estimate that need not be close."""
  assert _error_where_means_are_large(99.0) < 3e-6
  assert _error_where_means_are_large(105.0) < 2e-5


def test_no_gradient_depends_on_the_running_mean():
  """Only rounding depends on it; no gradient does."""
  x = jnp.asarray(_maps())
  norm = BatchNorm(momentum=0.0, epsilon=1e-5)

  def loss(x, mean):
    stats = {"mean": mean, "var": jnp.ones(4)}
    y, _ = norm.apply(
      {"batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(y**3)

  by_x, by_mean = jax.grad(loss, (0, 1))(x, jnp.full(4, 2.0))
  np.testing.assert_array_equal(by_mean, 0)
  elsewhere = jax.grad(loss)(x, jnp.full(4, -1.0))
  np.testing.assert_allclose(by_x, elsewhere, rtol=1e-3, atol=1e-4)
