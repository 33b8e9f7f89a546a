"""Penalties for functions and weights with closed-form solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses.orthogonal import orthogonal
from bigscale.losses.r1_r2 import logits_and_gradient_penalty
from bigscale.losses.sigma import sigma
from bigscale.losses.weight_clip import clip
from bigscale.losses.wgan_gp import interpolation_penalty
from bigscale.ops import spectral
from bigscale.ops.spectral import flatten
from bigscale.spec import SigmaSpec, SpecError


def _quadratic(matrix, vector):
  """D(x) = x^T A x / 2 + b^T x per sample, with the gradient A x + b."""

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
  logits, penalties = logits_and_gradient_penalty(
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
    _, penalties = logits_and_gradient_penalty(
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

  logits_and_gradient_penalty(discriminator, jnp.ones((2, 4, 4, 1)))
  assert calls == [(2, 4, 4, 1)]


def test_penalties_of_bfloat16_networks_are_float32():
  def discriminator(x):
    return jnp.sum(jnp.square(x.astype(jnp.bfloat16)), axis=(1, 2, 3))

  images = jnp.full((1, 32, 32, 3), 0.5, jnp.bfloat16)
  _, penalties = logits_and_gradient_penalty(discriminator, images)
  assert penalties.dtype == jnp.float32
  # 3072 ones; a sum in bfloat16 would stop at 256.
  np.testing.assert_allclose(penalties, 3072)


def _draw(*shape, seed=0, dtype="float32"):
  return jnp.asarray(np.random.RandomState(seed).normal(size=shape), dtype)


def test_interpolation_penalty_of_a_linear_discriminator():
  # Its gradient is w everywhere: |w| = 5, and |w| = 1 without a penalty.
  reals, fakes = _draw(2, 1, 1, 2), _draw(2, 1, 1, 2, seed=1)
  mix = jnp.array([0.0, 0.7])

  @jax.jit
  def penalty(w):
    return interpolation_penalty(
      lambda x: x.reshape(2, 2) @ w, reals, fakes, mix
    )

  w = jnp.array([3.0, -4.0])
  np.testing.assert_allclose(penalty(w), [16, 16], rtol=1e-6)
  np.testing.assert_allclose(penalty(w / 5), [0, 0], atol=1e-12)
  # 2 (|w| - 1) w / |w| per sample.
  slope = jax.jit(jax.grad(lambda w: jnp.sum(penalty(w))))(w)
  np.testing.assert_allclose(slope, 2 * 2 * 4 * w / 5, rtol=1e-6)


def test_interpolation_penalty_is_taken_between_reals_and_fakes():
  reals, matrix, vector = _quadratic_case()
  fakes = np.random.RandomState(1).normal(size=reals.shape)
  mix = np.array([0.0, 0.25, 1.0])

  @jax.jit
  def penalty(vector, mix):
    return interpolation_penalty(
      _quadratic(jnp.asarray(matrix, "float32"), vector),
      *(jnp.asarray(x, "float32") for x in (reals, fakes, mix)),
    )

  def expected(vector):
    share = mix[:, None]
    x = share * reals.reshape(3, -1) + (1 - share) * fakes.reshape(3, -1)
    return (np.linalg.norm(x @ matrix + vector, axis=1) - 1) ** 2

  single = jnp.asarray(vector, "float32")
  np.testing.assert_allclose(penalty(single, mix), expected(vector), rtol=1e-4)
  found = jax.jit(jax.grad(lambda v: jnp.sum(penalty(v, mix))))(single)
  slopes = [
    np.sum(expected(vector + step) - expected(vector - step)) / 2e-6
    for step in 1e-6 * np.eye(12)
  ]
  np.testing.assert_allclose(found, slopes, rtol=1e-3, atol=1e-3)


def test_interpolation_penalty_where_the_gradient_vanishes():
  images = jnp.zeros((2, 2, 2, 1))

  @jax.jit
  def penalty(scale):
    return interpolation_penalty(
      lambda x: scale * jnp.sum(jnp.square(x), axis=(1, 2, 3)),
      images,
      images,
      jnp.full(2, 0.5),
    )

  np.testing.assert_array_equal(penalty(3.0), [1, 1])
  assert jax.jit(jax.grad(lambda scale: jnp.sum(penalty(scale))))(3.0) == 0


def test_interpolation_penalty_mixes_in_float32():
  # 1 and 1 + 2^-7 are adjacent bfloat16 numbers.
  reals = jnp.full((1, 1, 1, 1), 1, jnp.bfloat16)
  fakes = jnp.full((1, 1, 1, 1), 1 + 2**-7, jnp.bfloat16)
  found = interpolation_penalty(
    lambda x: jnp.sum(jnp.square(x), axis=(1, 2, 3)),
    reals,
    fakes,
    jnp.array([0.5], jnp.bfloat16),
  )
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, (2 * (1 + 2**-8) - 1) ** 2, rtol=1e-6)


def test_clip_bounds_every_weight_and_keeps_its_type():
  params = {
    "a": {"kernel": jnp.array([[-1.0, 0.005], [0.02, -0.01]])},
    "b": jnp.array([3, -0.001], jnp.bfloat16),
  }
  found = clip(params, 0.01)
  np.testing.assert_array_equal(
    found["a"]["kernel"], np.float32([[-0.01, 0.005], [0.01, -0.01]])
  )
  assert found["b"].dtype == jnp.bfloat16
  np.testing.assert_allclose(found["b"], [0.01, -0.001], rtol=1e-2)


def _dense_orthogonal(params, form):
  """The formula as published, with all Gram matrices."""
  total = 0.0
  for path, weight in flatten(params).items():
    if weight.ndim < 2:
      continue
    # Filters are the last axis of a kernel and the first axis of a table.
    axis = 0 if path.endswith("embedding") else -1
    weight = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
    w = weight.reshape(weight.shape[0], -1)
    identity = np.eye(len(w))
    gram = w @ w.T
    total += np.sum(
      {"off_diagonal": gram * (1 - identity), "full": gram - identity}[form]
      ** 2
    )
  return total


@pytest.mark.parametrize("form", ["off_diagonal", "full"])
@pytest.mark.parametrize(
  "params",
  [
    {"kernel": (20, 5)},
    {"kernel": (5, 20)},
    {"kernel": (6, 6)},
    {"kernel": (3, 3, 2, 30)},
    {"kernel": (3, 3, 4, 6)},
    {"embedding": (7, 3)},
    {"embedding": (3, 7)},
    {"a": {"kernel": (4, 9)}, "b": {"embedding": (4, 9), "bias": (9,)}},
  ],
  ids=str,
)
def test_orthogonal_is_the_dense_formula(params, form):
  random = np.random.RandomState(0)
  params = jax.tree.map(
    lambda shape: jnp.asarray(random.normal(size=shape), "float32"),
    params,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )
  found = jax.jit(lambda params: orthogonal(params, lambda path: True, form))(
    params
  )
  np.testing.assert_allclose(found, _dense_orthogonal(params, form), rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
def test_orthogonal_gradient_is_four_times_the_off_diagonal_gram(shape):
  weight = np.random.RandomState(0).normal(size=shape)
  gradient = jax.jit(
    jax.grad(lambda w: orthogonal({"kernel": w}, lambda path: True))
  )(jnp.asarray(weight, "float32"))
  gram = weight.T @ weight * (1 - np.eye(shape[1]))
  np.testing.assert_allclose(gradient, 4 * weight @ gram, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
def test_full_orthogonal_gradient(shape):
  weight = np.random.RandomState(0).normal(size=shape)
  gradient = jax.jit(
    jax.grad(lambda w: orthogonal({"kernel": w}, lambda path: True, "full"))
  )(jnp.asarray(weight, "float32"))
  gram = weight.T @ weight - np.eye(shape[1])
  np.testing.assert_allclose(gradient, 4 * weight @ gram, rtol=1e-3, atol=1e-3)


def test_orthogonal_filters_have_no_penalty():
  params = {"a": {"kernel": 3 * jnp.eye(4)}, "b": {"kernel": jnp.ones((4, 4))}}
  assert orthogonal(params, lambda path: path == "a/kernel") == 0
  assert orthogonal(params, lambda path: path == "b/kernel") > 0
  # (9 - 1)^2 for each of four filters of length 3.
  full = orthogonal(params, lambda path: path == "a/kernel", "full")
  assert full == 4 * 64


@pytest.mark.parametrize("form", ["off_diagonal", "full"])
def test_no_gram_matrix_is_larger_than_the_smaller_side(form):
  wide = {"kernel": jax.ShapeDtypeStruct((20, 24_576), jnp.float32)}
  jaxpr = jax.make_jaxpr(
    lambda params: orthogonal(params, lambda path: True, form)
  )(wide)
  sizes = [variable.aval.size for eqn in jaxpr.eqns for variable in eqn.outvars]
  assert max(sizes) <= 20 * 24_576


def _sigma_case(dtype="float32"):
  """Returns weights with spectra before convergence; "c" has one value."""
  params = {
    "a": {"kernel": _draw(3, 3, 2, 4, dtype=dtype)},
    "b": {"embedding": _draw(6, 5, seed=1, dtype=dtype)},
    "c": {"kernel": _draw(5, 1, seed=2, dtype=dtype)},
  }
  spectra = {}
  for path, shape in (
    ("a/kernel", (2, 4)),
    ("b/embedding", (2, 6)),
    ("c/kernel", (1, 1)),
  ):
    u = np.random.RandomState(3).normal(size=shape)
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    sigma = np.array([2, 0.7])[: len(u)]
    spectra[path] = spectral.Spectrum(
      jnp.asarray(u, dtype), jnp.asarray(sigma, dtype)
    )
  return params, spectra


def _sigma_by_hand(weight, u, axis):
  w = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
  w = w.reshape(w.shape[0], -1)
  u = np.asarray(u, np.float64)
  v = u @ w / np.linalg.norm(u @ w)
  return u @ w @ v


@pytest.mark.parametrize("spec", [SigmaSpec(goal=1.5), SigmaSpec(ratio=0.5)])
def test_sigma_is_the_distance_from_the_goal(spec):
  params, spectra = _sigma_case()
  expected = 0.0
  for path, axis in (("a/kernel", -1), ("b/embedding", 0), ("c/kernel", -1)):
    values = spectra[path].sigma
    if not spec.goal and len(values) == 1:
      continue
    goal = spec.goal or spec.ratio * float(values[1])
    weight = flatten(params)[path]
    sigma0 = _sigma_by_hand(weight, spectra[path].u[0], axis)
    expected += (sigma0 - goal) ** 2
  found = jax.jit(lambda p, s: sigma(p, s, spec))(params, spectra)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("spec", [SigmaSpec(goal=1.5), SigmaSpec(ratio=0.5)])
def test_sigma_gradient_against_finite_differences(spec):
  with jax.enable_x64(True):
    params, spectra = _sigma_case("float64")

    penalty = jax.jit(lambda params: sigma(params, spectra, spec))
    gradient = flatten(jax.jit(jax.grad(penalty))(params))
    values = flatten(params)
    for path, weight in values.items():
      direction = np.random.RandomState(7).normal(size=weight.shape)
      ends = [
        penalty(
          spectral.unflatten(
            values | {path: np.asarray(weight) + step * direction}
          )
        )
        for step in (1e-5, -1e-5)
      ]
      np.testing.assert_allclose(
        np.sum(np.asarray(gradient[path]) * direction),
        float(ends[0] - ends[1]) / 2e-5,
        rtol=1e-7,
        atol=1e-7,
      )


def test_sigma_gradient_has_rank_one_and_fixes_sigma1():
  params, spectra = _sigma_case()

  def penalty(params, values):
    given = spectra["b/embedding"]._replace(sigma=values)
    return sigma(params, {"b/embedding": given}, SigmaSpec())

  by_weight, by_values = jax.jit(jax.grad(penalty, argnums=(0, 1)))(
    params, spectra["b/embedding"].sigma
  )
  u = np.asarray(spectra["b/embedding"].u[0])
  w = np.asarray(params["b"]["embedding"])
  v = u @ w / np.linalg.norm(u @ w)
  sigma0, sigma1 = u @ w @ v, spectra["b/embedding"].sigma[1]
  np.testing.assert_allclose(
    by_weight["b"]["embedding"],
    2 * (sigma0 - sigma1) * np.outer(u, v),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_array_equal(by_values, [0, 0])
  np.testing.assert_array_equal(by_weight["c"]["kernel"], np.zeros((5, 1)))


def test_sigma_without_a_second_value_is_refused():
  params, spectra = _sigma_case()
  alone = {"c/kernel": spectra["c/kernel"]}
  with pytest.raises(SpecError, match="num_singular_values"):
    sigma(params, alone, SigmaSpec(strength=1.0))
