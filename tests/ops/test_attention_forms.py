"""Formulations of attention and pooled convolutions agree.

Their first and second derivatives agree as well.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.ops import attention, pooled_conv, precision

B, N, M, K, V = 2, 24, 6, 3, 5


def draw(shapes, dtype="float64", scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(scale * rng.normal(size=s), dtype) for s in shapes]


def qkv(dtype="float64", scale=1.0):
  """Returns queries and keys whose scores are about `scale` squared."""
  query, key = draw([(B, N, K), (B, M, K)], dtype, scale)
  (value,) = draw([(B, M, V)], dtype, seed=1)
  return query, key, value


def softmax(query, key, value):
  """Attention as in textbooks."""
  scores = jnp.einsum("bnk,bmk->bnm", query, key)
  return jax.nn.softmax(scores, axis=-1) @ value


def first_and_second(function, *x):
  """Returns values, gradients, and gradients of a squared gradient."""

  def loss(*x):
    return jnp.sum(jnp.sin(function(*x)))

  def squares(*x):
    gradients = jax.grad(loss, range(len(x)))(*x)
    return sum(jnp.sum(g**2) for g in gradients)

  return (
    function(*x),
    jax.grad(loss, range(len(x)))(*x),
    jax.grad(squares, range(len(x)))(*x),
  )


def assert_close(found, expected, tolerance):
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    largest = np.max(np.abs(other))
    np.testing.assert_allclose(one, other, atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize("name", ["plain", "remade"])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_formulations_agree_in_float64(name, scale):
  with jax.enable_x64(True):
    run = jax.jit(
      functools.partial(first_and_second, attention.FORMULATIONS[name])
    )
    x = qkv(scale=scale)
    assert_close(run(*x), first_and_second(softmax, *x), 1e-10)


@pytest.mark.slow
def test_library_agrees():
  """The library computes in float32."""
  x = qkv("float32")
  found = first_and_second(attention.library, *x)
  assert_close(found, first_and_second(softmax, *x), 2e-5)


@pytest.mark.parametrize("name", ["plain", "remade"])
@pytest.mark.parametrize("scale", [1e2, 1e8, 1e18])
def test_finite_scores_give_finite_results(name, scale):
  """Scores are up to 1e37, so one key has all the weight."""
  x = qkv("float32", scale)
  assert np.isfinite(np.max(jnp.einsum("bnk,bmk->bnm", *x[:2])))
  out, gradients, _ = first_and_second(attention.FORMULATIONS[name], *x)
  top = jnp.argmax(jnp.einsum("bnk,bmk->bnm", *x[:2]), axis=-1)
  expected = jnp.take_along_axis(x[2], top[..., None], axis=1)
  if scale > 1e2:
    np.testing.assert_allclose(out, expected, rtol=1e-6)
  assert np.isfinite(out).all()
  assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("level", [0.0, 1e3, 1e6, 1e12])
def test_gradients_share_among_equal_keys(level):
  """Rounding must not lose the sum of the weights, even for large scores."""
  query, key, value = qkv("float32")
  query = query.at[..., 0].set(1)
  # Scores that are equal up to rounding and much larger than 1.
  key = jnp.zeros_like(key).at[..., 0].set(level)

  def gradients(function, dtype):
    x = [one.astype(dtype) for one in (query, key, value)]
    return jax.grad(lambda v: jnp.sum(jnp.sin(function(*x[:2], v))))(x[2])

  with jax.enable_x64(True):
    expected = gradients(softmax, "float64")
  for function in (attention.plain, attention.remade):
    assert_close(gradients(function, "float32"), expected, 1e-5)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_bfloat16_errors_are_similar(scale):
  """Compares values and gradients with float32 for the same inputs."""
  x = qkv("bfloat16", scale)
  wide = [one.astype("float32") for one in x]
  expected = first_and_second(softmax, *wide)[:2]

  def error(name):
    found = first_and_second(attention.FORMULATIONS[name], *x)[:2]
    return [
      float(np.linalg.norm(np.float32(one) - other) / np.linalg.norm(other))
      for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
      )
    ]

  for plain, remade in zip(error("plain"), error("remade"), strict=True):
    assert remade < 1.5 * plain + 2e-3


@pytest.mark.parametrize("ties", [False, True])
def test_pooled_convolutions_agree(ties):
  with jax.enable_x64(True):
    x, w = draw([(2, 4, 6, 3), (1, 1, 3, 4)])
    if ties:
      x = jnp.round(x)
      x = x.at[:, 1::2].set(x[:, ::2])
    whole = first_and_second(pooled_conv.whole, x, w)
    assert_close(first_and_second(pooled_conv.strided, x, w), whole, 1e-12)


@pytest.mark.parametrize(
  ("function", "x"),
  [
    (attention.remade, [(1, 4, 2), (1, 2, 2), (1, 2, 3)]),
    (pooled_conv.strided, [(1, 2, 2, 3), (1, 1, 3, 4)]),
  ],
)
def test_gradients_keep_the_stated_precision(function, x):
  """JAX traces custom gradients after the network has returned."""

  def loss(*x):
    return jnp.sum(precision.at("high")(function)(*x))

  x = draw(x, "float32")
  gradient = jax.jit(jax.grad(loss, range(len(x))))
  with jax.default_matmul_precision("highest"):
    text = gradient.lower(*x).as_text()
  products = [
    line
    for line in text.splitlines()
    if "stablehlo.dot_general" in line or "stablehlo.convolution" in line
  ]
  assert products
  stated = [
    line
    for line in products
    if line.count("precision HIGH>") == 2 or "[HIGH, HIGH]" in line
  ]
  assert len(stated) == len(products), products
