"""R1 and R2 on a D solved by hand; orthogonality without detours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses import regularizers
from bigscale.ops.spectral import flatten


def _quadratic(matrix, vector):
  """D(x) = x^T A x / 2 + b^T x per sample: its gradient is A x + b."""

  def discriminator(x_bhwc):
    x_bn = x_bhwc.reshape(x_bhwc.shape[0], -1)
    quadratic = jnp.einsum("bi,ij,bj->b", x_bn, matrix, x_bn) / 2
    return quadratic + x_bn @ vector

  return discriminator


def _quadratic_case():
  random = np.random.RandomState(0)
  images = random.normal(size=(3, 2, 2, 3))
  matrix = random.normal(size=(12, 12))
  matrix = matrix + matrix.T
  return images, matrix, random.normal(size=12)


def test_penalty_is_the_squared_gradient_summed_over_an_image():
  images, matrix, vector = _quadratic_case()
  logits, penalties = regularizers.logits_and_gradient_penalty(
    _quadratic(*(jnp.asarray(x, "float32") for x in (matrix, vector))),
    jnp.asarray(images, "float32"),
  )
  x = images.reshape(3, -1)
  np.testing.assert_allclose(
    logits, np.sum(x * (x @ matrix), axis=1) / 2 + x @ vector, rtol=1e-4
  )
  np.testing.assert_allclose(
    penalties, np.sum((x @ matrix + vector) ** 2, axis=1), rtol=1e-4
  )


def test_gradient_of_the_penalty_in_the_weights():
  images, matrix, vector = _quadratic_case()

  def total(vector):
    _, penalties = regularizers.logits_and_gradient_penalty(
      _quadratic(jnp.asarray(matrix, "float32"), vector),
      jnp.asarray(images, "float32"),
    )
    return jnp.sum(penalties)

  x = images.reshape(3, -1)
  expected = 2 * np.sum(x @ matrix + vector, axis=0)
  found = jax.grad(total)(jnp.asarray(vector, "float32"))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_discriminator_is_run_once():
  calls = []

  def discriminator(x):
    calls.append(x.shape)
    return jnp.sum(x, axis=(1, 2, 3))

  regularizers.logits_and_gradient_penalty(
    discriminator, jnp.ones((2, 4, 4, 1))
  )
  assert calls == [(2, 4, 4, 1)]


def test_penalties_leave_half_precision_networks_as_float32():
  def discriminator(x):
    return jnp.sum(jnp.square(x.astype(jnp.bfloat16)), axis=(1, 2, 3))

  images = jnp.full((1, 32, 32, 3), 0.5, jnp.bfloat16)
  _, penalties = regularizers.logits_and_gradient_penalty(discriminator, images)
  assert penalties.dtype == jnp.float32
  # 3072 ones: a sum in bfloat16 stalls at 256.
  np.testing.assert_allclose(penalties, 3072)


def _dense_orthogonal(params, select):
  """The formula as written, with every Gram matrix built."""
  total = 0.0
  for path, weight in flatten(params).items():
    if weight.ndim < 2 or not select(path):
      continue
    # Filters of a kernel come last, rows of a table first.
    axis = 0 if path.endswith("embedding") else -1
    weight = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
    w = weight.reshape(weight.shape[0], -1)
    total += np.sum((w @ w.T * (1 - np.eye(len(w)))) ** 2)
  return total


@pytest.mark.parametrize(
  "params",
  [
    {"kernel": (20, 5)},
    {"kernel": (5, 20)},
    {"kernel": (3, 3, 2, 30)},
    {"kernel": (3, 3, 4, 6)},
    {"embedding": (7, 3)},
    {"embedding": (3, 7)},
    {"a": {"kernel": (4, 9)}, "b": {"embedding": (4, 9), "bias": (9,)}},
  ],
  ids=str,
)
def test_orthogonal_is_the_dense_formula(params):
  random = np.random.RandomState(0)
  params = jax.tree.map(
    lambda shape: jnp.asarray(random.normal(size=shape), "float32"),
    params,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )
  found = jax.jit(lambda p: regularizers.orthogonal(p, lambda path: True))(
    params
  )
  expected = _dense_orthogonal(params, lambda path: True)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
def test_orthogonal_gradient_is_four_times_the_off_diagonal_gram(shape):
  weight = np.random.RandomState(0).normal(size=shape)
  gradient = jax.jit(
    jax.grad(
      lambda w: regularizers.orthogonal({"kernel": w}, lambda path: True)
    )
  )(jnp.asarray(weight, "float32"))
  gram = weight.T @ weight * (1 - np.eye(shape[1]))
  np.testing.assert_allclose(gradient, 4 * weight @ gram, rtol=1e-3, atol=1e-3)


def test_orthogonal_filters_cost_nothing_and_selection_counts():
  params = {"a": {"kernel": 3 * jnp.eye(4)}, "b": {"kernel": jnp.ones((4, 4))}}
  assert regularizers.orthogonal(params, lambda path: path == "a/kernel") == 0
  assert regularizers.orthogonal(params, lambda path: path == "b/kernel") > 0


def test_no_gram_matrix_is_larger_than_the_smaller_side():
  wide = {"kernel": jax.ShapeDtypeStruct((20, 24_576), jnp.float32)}
  jaxpr = jax.make_jaxpr(
    lambda params: regularizers.orthogonal(params, lambda path: True)
  )(wide)
  sizes = [variable.aval.size for eqn in jaxpr.eqns for variable in eqn.outvars]
  assert max(sizes) <= 20 * 24_576
