"""The power iteration against numpy's singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.ops import spectral

_normalize = jax.jit(spectral.normalize, static_argnums=2)


def _weight(shape, seed=0):
  return jnp.asarray(np.random.RandomState(seed).normal(size=shape), "float32")


def _matrix(path, weight):
  """(out, rest) float64."""
  axis = 0 if path.endswith("embedding") else -1
  weight = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
  return weight.reshape(weight.shape[0], -1)


def _converged(params, k, steps=300):
  spectra = spectral.init(jax.random.key(0), params, lambda path: True, k)

  @jax.jit
  def iterate(spectra):
    return jax.lax.fori_loop(
      0, steps, lambda _, s: spectral.normalize(params, s, 1e-6)[1], spectra
    )

  return iterate(spectra)


def test_sigma_of_kernels_and_embeddings_is_svd():
  params = {
    "conv": {"kernel": _weight((3, 3, 2, 6))},
    "dense": {"kernel": _weight((9, 4), 1)},
    "wide": {"kernel": _weight((3, 11), 2)},
    "table": {"embedding": _weight((7, 5), 3)},
  }
  spectra = _converged(params, k=3)
  for path, weight in spectral.flatten(params).items():
    singular = np.linalg.svd(_matrix(path, weight))[1]
    np.testing.assert_allclose(spectra[path].sigma, singular[:3], rtol=2e-4)
    assert spectra[path].u.shape == (3, len(_matrix(path, weight)))


def test_deflation_finds_the_left_singular_vectors():
  u, _ = np.linalg.qr(np.random.RandomState(1).normal(size=(8, 8)))
  v, _ = np.linalg.qr(np.random.RandomState(2).normal(size=(12, 12)))
  sigma = np.array([5, 3, 2, 1, 0.5, 0.2, 0.1, 0.05])
  matrix = (u * sigma) @ v[:, :8].T
  spectra = _converged({"kernel": jnp.asarray(matrix.T, "float32")}, k=3)
  found = spectra["kernel"]
  np.testing.assert_allclose(found.sigma, sigma[:3], rtol=1e-5)
  np.testing.assert_allclose(np.abs(found.u @ u)[:, :3], np.eye(3), atol=1e-4)


def test_count_is_bounded_by_the_smaller_side():
  params = {
    "a": {"kernel": jnp.ones((9, 1))},
    "b": {"kernel": jnp.ones((2, 4))},
  }
  spectra = spectral.init(jax.random.key(0), params, lambda path: True, 3)
  assert spectra["a/kernel"].sigma.shape == (1,)
  assert spectra["b/kernel"].u.shape == (2, 4)


def test_init_selects_by_path():
  params = {"a": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
  chosen = spectral.init(
    jax.random.key(0), params, lambda path: path.endswith("kernel"), 1
  )
  assert list(chosen) == ["a/kernel"]
  np.testing.assert_allclose(jnp.linalg.norm(chosen["a/kernel"].u), 1, 1e-6)


def test_normalized_weight_has_unit_norm_and_others_stay():
  params = {"a": {"kernel": _weight((3, 3, 4, 5)), "bias": _weight((5,))}}
  spectra = _converged({"a": {"kernel": params["a"]["kernel"]}}, k=1)
  normalized, _ = _normalize(params, spectra, 1e-6)
  matrix = _matrix("a/kernel", normalized["a"]["kernel"])
  np.testing.assert_allclose(np.linalg.norm(matrix, 2), 1, rtol=1e-4)
  np.testing.assert_array_equal(normalized["a"]["bias"], params["a"]["bias"])


def test_gradient_flows_through_sigma_with_vectors_fixed():
  weight = _weight((6, 4))
  spectra = spectral.init(
    jax.random.key(0), {"kernel": weight}, lambda path: True, 1
  )
  direction = _weight((6, 4), 5)

  def loss(weight):
    params, _ = _normalize({"kernel": weight}, spectra, 1e-6)
    return jnp.sum(params["kernel"] * direction)

  u = np.asarray(spectra["kernel"].u[0], np.float64)
  w = np.asarray(weight, np.float64)
  v = w @ u / np.linalg.norm(w @ u)
  u = w.T @ v / np.linalg.norm(w.T @ v)
  sigma = v @ w @ u
  # d(W / sigma) with d(sigma) = v u^T.
  expected = direction / sigma - np.sum(w * direction) / sigma**2 * np.outer(
    v, u
  )
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(weight), expected, atol=1e-5
  )


def test_scaling_a_weight_changes_nothing_but_sigma():
  weight = _weight((3, 3, 4, 5))
  spectra = _converged({"kernel": weight}, k=2)
  once, first = _normalize({"kernel": weight}, spectra, 1e-6)
  twice, second = _normalize({"kernel": 4 * weight}, spectra, 1e-6)
  np.testing.assert_allclose(once["kernel"], twice["kernel"], rtol=1e-6)
  np.testing.assert_allclose(
    4 * first["kernel"].sigma, second["kernel"].sigma, rtol=1e-6
  )


def test_half_precision_weights_are_measured_in_float32():
  weight = _weight((6, 4)).astype(jnp.bfloat16)
  spectra = spectral.init(
    jax.random.key(0), {"kernel": weight}, lambda path: True, 1
  )
  params, stepped = _normalize({"kernel": weight}, spectra, 1e-6)
  assert stepped["kernel"].u.dtype == jnp.float32
  assert stepped["kernel"].sigma.dtype == jnp.float32
  assert params["kernel"].dtype == jnp.bfloat16


def test_unflatten_undoes_flatten():
  tree = {"a": {"b": jnp.ones(1), "c": {"d": jnp.zeros(2)}}, "e": jnp.ones(3)}
  flat = spectral.flatten(tree)
  assert sorted(flat) == ["a/b", "a/c/d", "e"]
  again = spectral.unflatten(flat)
  assert jax.tree.structure(again) == jax.tree.structure(tree)
