"""Singular values compared with NumPy's, and kernels that stay sharded."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.ops import spectral
from tests import fast_compile

# Compiling takes nearly all of the time; this setting shortens it.
_jit = functools.partial(jax.jit, compiler_options=fast_compile.OPTIONS)
_normalize = _jit(spectral.normalize, static_argnums=2)


@_jit
def _clamp(params, spectra, bound, epsilon):
  return spectral.clamp(
    params, spectra, {path: bound for path in spectra}, epsilon
  )


def _weight(shape, seed=0):
  return jnp.asarray(np.random.RandomState(seed).normal(size=shape), "float32")


def _matrix(path, weight):
  """Returns the matrix (out, rest) in float64."""
  axis = 0 if path.endswith("embedding") else -1
  weight = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
  return weight.reshape(weight.shape[0], -1)


def _converged(params, k, steps=300):
  spectra = spectral.init(jax.random.key(0), params, lambda path: True, k)

  @_jit
  def iterate(spectra):
    return jax.lax.fori_loop(
      0, steps, lambda _, s: spectral.track(params, s, 1e-6), spectra
    )

  return iterate(spectra)


def test_sigma_of_kernels_and_embeddings_is_svd():
  params = {
    "conv": {"kernel": _weight((3, 3, 2, 6))},
    "dense": {"kernel": _weight((9, 4), 1)},
    "wide": {"kernel": _weight((3, 11), 2)},
    "table": {"embedding": _weight((7, 5), 3)},
  }
  spectra = _converged(params, k=2)
  for path, weight in spectral.flatten(params).items():
    singular = np.linalg.svd(_matrix(path, weight))[1]
    np.testing.assert_allclose(spectra[path].sigma, singular[:2], rtol=2e-4)
    assert spectra[path].u.shape == (2, len(_matrix(path, weight)))


def test_deflation_finds_the_left_singular_vectors():
  u, _ = np.linalg.qr(np.random.RandomState(1).normal(size=(8, 8)))
  v, _ = np.linalg.qr(np.random.RandomState(2).normal(size=(12, 12)))
  sigma = np.array([5, 3, 2, 1, 0.5, 0.2, 0.1, 0.05])
  matrix = (u * sigma) @ v[:, :8].T
  spectra = _converged({"kernel": jnp.asarray(matrix.T, "float32")}, k=3)
  found = spectra["kernel"]
  np.testing.assert_allclose(found.sigma, sigma[:3], rtol=1e-5)
  np.testing.assert_allclose(np.abs(found.u @ u)[:, :3], np.eye(3), atol=1e-4)


def _with_values(values, inputs, seed=0):
  """Returns a kernel (inputs, len(values)) with these singular values."""
  random = np.random.RandomState(seed)
  u, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
  v, _ = np.linalg.qr(random.normal(size=(inputs, inputs)))
  return jnp.asarray((v[:, : len(values)] * values) @ u.T, "float32")


@pytest.mark.parametrize("gap", [0.5, 0.9, 0.99])
def test_track_finds_the_top_three_however_close(gap):
  values = gap ** np.arange(8)
  params = {"kernel": _with_values(values, 12)}
  # The slowest error decreases by the squared ratio of values per step.
  found = _converged(params, k=3, steps=int(6 / (1 - gap)))["kernel"]
  singular = np.linalg.svd(np.float64(params["kernel"]))[1]
  np.testing.assert_allclose(found.sigma, singular[:3], rtol=1e-4)
  np.testing.assert_allclose(found.u @ found.u.T, np.eye(3), atol=1e-5)


def _vector_by_vector(weight, u_ko, axis):
  """The authors' loop in float64, with a separate product per vector."""
  w = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
  w = w.reshape(w.shape[0], -1)
  us, vs, values = [], [], []
  for u in np.asarray(u_ko, np.float64):
    v = u @ w
    for other in vs:
      v = v - (v @ other) * other
    vs.append(v / np.linalg.norm(v))
    u = w @ vs[-1]
    for other in us:
      u = u - (u @ other) * other
    us.append(u / np.linalg.norm(u))
    values.append(us[-1] @ w @ vs[-1])
  return np.array(us), np.array(vs), np.array(values)


@pytest.mark.parametrize(
  ("name", "shape"),
  [("kernel", (3, 3, 4, 5)), ("kernel", (4, 9)), ("embedding", (7, 5))],
  ids=str,
)
def test_one_iteration_equals_the_authors_loop(name, shape):
  weight, axis = _weight(shape), spectral.output_axis(name)
  params, direction = {name: weight}, _weight(shape, 5)
  spectra = spectral.init(jax.random.key(0), params, lambda path: True, 3)

  @_jit
  def run(params):
    def loss(params):
      normalized, stepped = spectral.normalize(params, spectra, 1e-12)
      return jnp.sum(normalized[name] * direction), (normalized, stepped)

    gradient, aux = jax.grad(loss, has_aux=True)(params)
    return gradient, aux, spectral.track(params, spectra, 1e-12)

  gradient, (normalized, stepped), tracked = run(params)
  us, vs, values = _vector_by_vector(weight, spectra[name].u, axis)
  for found in (stepped[name], tracked[name]):
    np.testing.assert_allclose(found.u, us, atol=1e-5)
    np.testing.assert_allclose(found.sigma, values, rtol=1e-5)
  np.testing.assert_allclose(
    normalized[name], np.asarray(weight) / values[0], rtol=1e-5
  )
  w, d = (
    np.moveaxis(np.asarray(x, np.float64), axis, 0).reshape(len(us[0]), -1)
    for x in (weight, direction)
  )
  expected = d / values[0] - np.sum(w * d) / values[0] ** 2 * np.outer(
    us[0], vs[0]
  )
  found = np.moveaxis(np.asarray(gradient[name]), axis, 0)
  np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_track_and_the_vectors_have_no_gradient():
  params = {"kernel": _weight((6, 4))}
  spectra = spectral.init(jax.random.key(0), params, lambda path: True, 2)

  @_jit
  @jax.grad
  def gradient(params):
    _, stepped = spectral.normalize(params, spectra, 1e-6)
    tracked = spectral.track(params, spectra, 1e-6)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((stepped, tracked)))

  np.testing.assert_array_equal(gradient(params)["kernel"], np.zeros((6, 4)))


@pytest.mark.parametrize("bound", [2.5, 9.0])
def test_clamp_lowers_the_top_value_to_the_bound_alone(bound):
  values = np.array([5, 2, 1, 0.5])
  conv = _with_values(values, 18).reshape(3, 3, 2, 4)
  table = _with_values(values, 6, 1).T
  params = {"a": {"kernel": conv, "bias": jnp.ones(4)}, "embedding": table}
  params["free"] = {"kernel": conv}
  tracked = {"a": {"kernel": conv}, "embedding": table}
  clamped = _clamp(params, _converged(tracked, k=1, steps=40), bound, 1e-12)
  for path in ("a/kernel", "embedding"):
    singular = np.linalg.svd(_matrix(path, spectral.flatten(clamped)[path]))[1]
    np.testing.assert_allclose(singular, np.minimum(values, bound), rtol=1e-5)
  # The singular vectors do not change, because the difference has the direction
  # of the first pair.
  change = _matrix("kernel", conv) - _matrix("kernel", clamped["a"]["kernel"])
  u, _, v = np.linalg.svd(_matrix("kernel", conv))
  excess = max(0, 5 - bound) * np.outer(u[:, 0], v[0])
  np.testing.assert_allclose(change, excess, atol=1e-5)
  np.testing.assert_array_equal(clamped["free"]["kernel"], conv)
  np.testing.assert_array_equal(clamped["a"]["bias"], np.ones(4))
  if bound > 5:
    np.testing.assert_array_equal(clamped["a"]["kernel"], conv)


def test_clamp_before_convergence_is_the_formula():
  weight = _weight((6, 4))
  u = np.array([0.6, 0, -0.8, 0])
  spectrum = spectral.Spectrum(
    jnp.asarray(u[None], "float32"), jnp.ones(1, "float32")
  )
  clamped = _clamp({"kernel": weight}, {"kernel": spectrum}, 0.5, 1e-12)
  w = np.float64(weight).T
  v = u @ w / np.linalg.norm(u @ w)
  expected = w - (u @ w @ v - 0.5) * np.outer(u, v)
  np.testing.assert_allclose(clamped["kernel"].T, expected, atol=1e-6)


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


def test_only_selected_weights_are_normalized():
  params = {"a": {"kernel": _weight((3, 3, 4, 5)), "bias": _weight((5,))}}
  spectra = _converged({"a": {"kernel": params["a"]["kernel"]}}, k=1)
  normalized, _ = _normalize(params, spectra, 1e-6)
  matrix = _matrix("a/kernel", normalized["a"]["kernel"])
  np.testing.assert_allclose(np.linalg.norm(matrix, 2), 1, rtol=1e-4)
  np.testing.assert_array_equal(normalized["a"]["bias"], params["a"]["bias"])


def test_second_derivative_flows_through_sigma_too():
  weight, direction = _weight((3, 2)), _weight((3, 2), 5)
  spectra = spectral.init(
    jax.random.key(0), {"kernel": weight}, lambda path: True, 1
  )
  us, vs, _ = _vector_by_vector(weight, spectra["kernel"].u, -1)
  outer = jnp.asarray(np.outer(vs[0], us[0]), "float32")

  def loss(weight):
    params, _ = spectral.normalize({"kernel": weight}, spectra, 1e-12)
    return jnp.sum(params["kernel"] * direction)

  def plain(weight):
    return jnp.sum(weight / jnp.sum(weight * outer) * direction)

  found, expected = (_jit(jax.hessian(f))(weight) for f in (loss, plain))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert np.abs(expected).max() > 0.1


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


def _largest(hlo, *collectives):
  """Returns the elements of the largest array sent by these collectives."""
  largest = 0
  for line in hlo.splitlines():
    if not re.search(rf"= .*({'|'.join(collectives)})(-start)?\(", line):
      continue
    for shape in re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", line):
      sides = [int(side) for side in shape.split(",") if side]
      largest = max(largest, int(np.prod(sides)))
  return largest


_MOVES = ("all-gather", "all-to-all", "collective-permute")


def _sharded_case():
  """Returns kernels sharded over eight devices by output channels.

  All other arrays are replicated.
  """
  mesh = Mesh(np.array(jax.devices()), ("fsdp",))
  params = {
    "conv": {"kernel": _weight((3, 3, 64, 64))},
    "dense": {"kernel": _weight((64, 128), 1), "bias": jnp.ones(128)},
  }
  spectra = spectral.init(
    jax.random.key(0), params, lambda path: path.endswith("kernel"), 2
  )
  partitions = {
    "conv": {"kernel": P(None, None, None, "fsdp")},
    "dense": {"kernel": P(None, "fsdp"), "bias": P()},
  }
  shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partitions)
  whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), spectra)
  return (params, spectra), (shardings, whole)


def _normalize_and_pull_back(params, spectra):
  """Includes the gradient in the weights, as in training."""

  def loss(params):
    normalized, stepped = spectral.normalize(params, spectra, 1e-6)
    total = sum(jnp.sum(x**3) for x in jax.tree.leaves(normalized))
    return total, (normalized, stepped)

  gradient, (normalized, stepped) = jax.grad(loss, has_aux=True)(params)
  return {"gradient": gradient, "params": normalized}, stepped


@pytest.mark.parametrize(
  "function",
  [
    _normalize_and_pull_back,
    lambda params, spectra: ({}, spectral.track(params, spectra, 1e-6)),
    lambda params, spectra: (
      spectral.clamp(params, spectra, dict.fromkeys(spectra, 9.0), 1e-6),
      {},
    ),
  ],
  ids=["normalize", "track", "clamp"],
)
def test_sharded_kernels_are_never_gathered(function):
  arguments, shardings = _sharded_case()
  expected = _jit(function)(*arguments)
  sharded = jax.device_put(arguments, shardings)
  # Spectra are replicated, as in a training state; kernels may be sharded.
  _, spectra_out = jax.eval_shape(function, *arguments)
  whole = {path: shardings[1][path] for path in spectra_out}
  compiled = (
    _jit(function, out_shardings=(None, whole)).lower(*sharded).compile()
  )
  hlo = compiled.as_text()
  # At most u [2, O]; a device's shard of the smaller kernel has 64 * 16.
  assert _largest(hlo, *_MOVES) <= 2 * 128
  # At most v [2, 3, 3, I] of the convolution, and the sharding is effective.
  assert 0 < _largest(hlo, "all-reduce", "reduce-scatter") <= 2 * 3 * 3 * 64
  found = compiled(*sharded)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )
  for path, x in spectral.flatten(found[0]).items():
    layer, name = path.split("/")[-2:]
    assert x.sharding.is_equivalent_to(shardings[0][layer][name], x.ndim)


def test_a_gathered_kernel_would_be_seen():
  (params, _), (shardings, _) = _sharded_case()
  kernel = jax.device_put(
    params["dense"]["kernel"], shardings["dense"]["kernel"]
  )
  whole = NamedSharding(kernel.sharding.mesh, P())
  compiled = _jit(lambda x: x + 1, out_shardings=whole).lower(kernel)
  assert _largest(compiled.compile().as_text(), *_MOVES) == kernel.size
