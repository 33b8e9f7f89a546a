"""Attention at initialization, and its weighted mean."""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.models.attention import Attention


def test_attention_starts_as_the_identity():
  x = np.random.RandomState(0).normal(size=(2, 4, 4, 8)).astype("f4")
  attention = Attention("float32")
  variables = jax.jit(attention.init)(jax.random.key(0), x)
  np.testing.assert_array_equal(attention.apply(variables, x), x)
  variables["params"]["gamma"] = jnp.ones(())
  assert np.abs(attention.apply(variables, x) - x).max() > 0.01


def test_attention_is_a_weighted_mean_of_pooled_values():
  # Queries of zero weigh all positions equally.
  x = np.random.RandomState(0).normal(size=(2, 4, 4, 8)).astype("f4")
  attention = Attention("float32")
  params = jax.jit(attention.init)(jax.random.key(0), x)["params"]
  params["theta"]["kernel"] = jnp.zeros((1, 1, 8, 1))
  params["gamma"] = jnp.full((), 2.0)
  value = (x @ np.asarray(params["g"]["kernel"])[0, 0]).reshape(
    2, 2, 2, 2, 2, 4
  )
  mean = value.max((2, 4)).mean((1, 2))
  expected = x + 2 * (mean @ np.asarray(params["o"]["kernel"])[0, 0]).reshape(
    2, 1, 1, 8
  )
  y = attention.apply({"params": params}, x)
  np.testing.assert_allclose(y, expected, atol=1e-5)
