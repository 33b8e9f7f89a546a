"""Singular values of the weights of a parameter tree, and their uses.

`normalize` divides every selected weight by a running estimate of its largest
singular value (Miyato et al. 2018). It also returns estimates of the first k
singular values from a persistent power iteration with Gram-Schmidt deflation
(Brock et al. 2019, sec. 4). `track` only estimates. `clamp` limits the largest
singular value. Each call runs one iteration. Everything is float32 or wider at
the highest precision. `ops/power` implements the iteration; `Iteration` adapts
it to sharded weights.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.ops import power
from bigscale.ops.power import Spectra, Spectrum, Steps, output_axis
from bigscale.types import Array, PyTree


class Iteration(NamedTuple):
  """A power iteration for weights that may be sharded; see `ops/power`.

  Attributes:
    step: `step(weights, spectra, epsilon)` returns `Steps`.
    leading: `leading(weights, spectra, epsilon)` returns sigma0 [] by path.
    nests: whether loops and branches may contain the iteration. If False, loops
      are unrolled, and branches are computed and their result discarded.
  """

  step: Callable[[Mapping[str, Array], Spectra, float], Steps]
  leading: Callable[[Mapping[str, Array], Spectra, float], dict[str, Array]]
  nests: bool = True


HERE = Iteration(power.iterate, power.leading_values)


def init(
  key: Array, params: PyTree, select: Callable[[str], bool], k: int
) -> Spectra:
  """Returns random unit vectors for every weight that `select` selects.

  The number of singular values of a weight is at most its smaller side.
  """
  shapes = {}
  for path, weight in flatten(params).items():
    if select(path):
      out = weight.shape[output_axis(path)]
      count = min(k, out, weight.size // out)
      dtype = jnp.promote_types(weight.dtype, jnp.float32)
      shapes[path] = jax.ShapeDtypeStruct((count, out), dtype)
  # A single random draw, because each costs half a second of compiling on CPU.
  sizes = [shape.size for shape in shapes.values()]
  drawn = jax.random.normal(key, (sum(sizes),), jnp.result_type(float))
  spectra, start = {}, 0
  for path, shape in shapes.items():
    u = drawn[start : start + shape.size].reshape(shape.shape)
    start += shape.size
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    spectra[path] = Spectrum(
      u.astype(shape.dtype), jnp.ones(shape.shape[0], shape.dtype)
    )
  return spectra


def normalize(
  params: PyTree,
  spectra: Spectra,
  epsilon: float,
  iteration: Iteration = HERE,
) -> tuple[PyTree, Spectra]:
  """Divides the tracked weights by their largest singular values.

  The gradient flows through sigma = u^T W v, but not through u and v.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of the weights.
    epsilon: lower bound of the norms in the iteration.
    iteration: power iteration, for sharded weights.

  Returns:
    The tree with normalized weights, and the updated spectra.
  """
  flat = flatten(params)
  stepped, v = iteration.step(flat, spectra, epsilon)
  for path, (u_ko, sigma_k) in stepped.items():
    weight = flat[path]
    sigma0 = _with_gradient(
      output_axis(path),
      sigma_k[0],
      weight.astype(sigma_k.dtype),
      u_ko[0],
      v[path][0],
    )
    flat[path] = (weight / sigma0).astype(weight.dtype)
  return unflatten(flat), stepped


def normalize_often(
  params: PyTree,
  spectra: Spectra,
  times: int,
  epsilon: float,
  iteration: Iteration = HERE,
) -> tuple[PyTree, dict[str, Array], Spectra]:
  """Applies `normalize` as in several forward passes with the same weights.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of the weights.
    times: number of forward passes, each of which updates the spectra.
    epsilon: lower bound of the norms in the iteration.
    iteration: power iteration, for sharded weights.

  Returns:
    The weights of the last pass; by path, factors [times] that convert these to
    the weights of each pass; and the spectra after `times` updates.
  """
  flat, factors = flatten(params), {}

  def one_more(
    spectra: dict[str, Spectrum], _: None
  ) -> tuple[dict[str, Spectrum], dict[str, tuple[Array, Array, Array]]]:
    stepped, v = iteration.step(flat, spectra, epsilon)
    first = {p: (s.sigma[0], s.u[0], v[p][0]) for p, s in stepped.items()}
    return stepped, first

  stepped, firsts = lax.scan(
    one_more,
    dict(spectra),
    None,
    length=times,
    unroll=1 if iteration.nests else times,
  )
  for path, (sigma_t, u_to, v_t) in firsts.items():
    weight = flat[path]
    sigma_t = jax.vmap(
      functools.partial(_with_gradient, output_axis(path)),
      in_axes=(0, None, 0, 0),
    )(sigma_t, weight.astype(sigma_t.dtype), u_to, v_t)
    flat[path] = (weight / sigma_t[-1]).astype(weight.dtype)
    factors[path] = sigma_t[-1] / sigma_t
  return unflatten(flat), factors, stepped


def normalize_again(
  params: PyTree,
  spectra: Spectra,
  epsilon: float,
  iteration: Iteration = HERE,
) -> PyTree:
  """Applies `normalize` without updating the spectra.

  sigma0 = u0^T W v0 of these weights, with u0 from `spectra` and v0 = unit(W^T
  u0), which reads the weight once. No gradient flows through sigma0.
  """
  flat = flatten(params)
  for path, sigma0 in iteration.leading(flat, spectra, epsilon).items():
    flat[path] = (flat[path] / sigma0).astype(flat[path].dtype)
  return unflatten(flat)


def track(
  params: PyTree,
  spectra: Spectra,
  epsilon: float,
  iteration: Iteration = HERE,
) -> Spectra:
  """Returns the spectra after one iteration, without a gradient.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of some of the weights.
    epsilon: lower bound of the norms in the iteration.
    iteration: power iteration, for sharded weights.
  """
  return iteration.step(flatten(params), spectra, epsilon).spectra


def clamp(
  params: PyTree,
  spectra: Spectra,
  bounds: Mapping[str, float | Array],
  epsilon: float,
) -> PyTree:
  """Reduces largest singular values that exceed their bounds.

  W <- W - max(0, sigma0 - bound) u0 v0^T (Brock et al. 2019, eq. 4), with u0
  from `spectra`, v0 = unit(W^T u0) and sigma0 = u0^T W v0. The result is exact
  once u0 has converged. Before that, sigma0 is too small, and the reduction
  too.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of the weights to clamp.
    bounds: upper bounds of the largest singular values, by path.
    epsilon: lower bound of the norm of W^T u0.

  Returns:
    The same tree; weights without a spectrum or below the bound are unchanged.
  """
  flat = flatten(params)
  for path, spectrum in spectra.items():
    weight, axis = flat[path], output_axis(path)
    u = spectrum.u[0]
    sigma0, v = leading_value(weight.astype(u.dtype), u, axis, epsilon)
    excess = jnp.maximum(sigma0 - bounds[path], 0)
    flat[path] = (weight - _outer(excess * u, v, axis)).astype(weight.dtype)
  return unflatten(flat)


def leading_value(
  weight: Array, u: Array, axis: int, epsilon: float
) -> tuple[Array, Array]:
  """Returns sigma0 = u^T W v and v = unit(W^T u), reading the weight once.

  The gradient of sigma0 is u v^T: no gradient flows through u and v.

  Args:
    weight: a weight, at least float32, with its outputs (length O) along
      `axis`.
    u: [O] unit, the leading left singular vector.
    axis: output axis of the weight.
    epsilon: lower bound of the norm of W^T u.

  Returns:
    sigma0 [] and v, which has the weight's shape without its output axis.
  """
  product = power.times_u(weight, lax.stop_gradient(u)[None], axis)[0]
  v = lax.stop_gradient(power.unit(product, epsilon))
  return jnp.sum(product * v), v


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_gradient(
  axis: int, sigma: Array, weight: Array, u: Array, v: Array
) -> Array:
  """Returns a known sigma = u^T W v as a function of W alone.

  Differentiating the products that computed it would cost the backward pass a
  contraction over all k vectors. This gradient is a single outer product.
  """
  del axis, weight, u, v
  return sigma


@_with_gradient.defjvp
def _with_gradient_jvp(
  axis: int, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
  _, _, u, v = primals
  (direction,) = power.times_v(tangents[1], v[None], axis)
  # Calls the rule again, for derivatives of higher order.
  return _with_gradient(axis, *primals), jnp.sum(direction * u)


def _outer(u: Array, v: Array, axis: int) -> Array:
  """Returns u v^T in the shape of a weight."""
  others = tuple(i for i in range(v.ndim + 1) if i != axis % (v.ndim + 1))
  u = jnp.expand_dims(u, others)
  return u * jnp.expand_dims(v, axis)


def flatten(tree: PyTree) -> dict[str, Array]:
  """Returns nested dictionaries as one dictionary with keys like "a/b/c"."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    flat["/".join(str(entry.key) for entry in path)] = leaf
  return flat


def unflatten(flat: Mapping[str, Array]) -> PyTree:
  """Inverts `flatten`."""
  tree: dict = {}
  for path, leaf in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree
