"""Singular values of the weights of a parameter tree, and their uses.

`normalize` divides every selected weight by a running estimate of its largest
singular value (Miyato et al. 2018) and returns the estimates of the first k,
found by a persistent power iteration with Gram-Schmidt deflation (Brock et al.
2019, sec. 4). `track` only estimates, `clamp` cuts the largest one down. One
call is one iteration. Everything is float32 or better at the highest
precision. The iteration itself is `ops/power`'s; `Iteration` is its way to
weights that are split over devices.
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
  """The power iteration where the weights are: by path, see `ops/power`.

  Attributes:
    step: `step(weights, spectra, epsilon) -> Steps`.
    leading: `leading(weights, spectra, epsilon)`: by path, sigma0 [].
    nests: whether loops and branches may hold it; where not, they are
      unrolled, and a branch is taken and its result left out.
  """

  step: Callable[[Mapping[str, Array], Spectra, float], Steps]
  leading: Callable[[Mapping[str, Array], Spectra, float], dict[str, Array]]
  nests: bool = True


HERE = Iteration(power.iterate, power.leading_values)


def init(
  key: Array, params: PyTree, select: Callable[[str], bool], k: int
) -> Spectra:
  """Random unit vectors for every weight that `select(path)` names.

  A weight has at most as many singular values as its smaller side.
  """
  shapes = {}
  for path, weight in flatten(params).items():
    if select(path):
      out = weight.shape[output_axis(path)]
      count = min(k, out, weight.size // out)
      dtype = jnp.promote_types(weight.dtype, jnp.float32)
      shapes[path] = jax.ShapeDtypeStruct((count, out), dtype)
  # One draw for all: on CPU each costs half a second of compiling.
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
  """Divides the tracked weights by their largest singular value.

  The gradient flows through sigma = u^T W v with u and v held fixed.

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    epsilon: floor of the norms in the iteration.
    iteration: of split weights.

  Returns:
    The same tree with normalized weights, and the iterations one step on.
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
  """`normalize` as in `times` forward passes with the same weights.

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    times: forward passes, each of which moves the iterations.
    epsilon: floor of the norms in the iteration.
    iteration: of split weights.

  Returns:
    The weights as the last pass has them; by path, factors [times] that make
    of these what each pass has; and the iterations `times` steps on.
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
  """`normalize` that leaves the iterations where they are.

  sigma0 = u0^T W v0 of these weights, with u0 from `spectra` and
  v0 = unit(W^T u0): one pass over the weight. No gradient through sigma0.
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
  """The iterations one step on, the weights as they are; no gradient.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of some of them.
    epsilon: floor of the norms in the iteration.
    iteration: of split weights.
  """
  return iteration.step(flatten(params), spectra, epsilon).spectra


def clamp(
  params: PyTree,
  spectra: Spectra,
  bounds: Mapping[str, float | Array],
  epsilon: float,
) -> PyTree:
  """Takes what exceeds `bound` off the largest singular value.

  W <- W - max(0, sigma0 - bound) u0 v0^T (Brock et al. 2019, eq. 4), with u0
  from `spectra`, v0 = unit(W^T u0) and sigma0 = u0^T W v0. Exact once u0 has
  converged; before that sigma0 is too small and less is taken.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of those to clamp.
    bounds: by path, of the largest singular value.
    epsilon: floor of the norm of W^T u0.

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
  """sigma0 = u^T W v and v = unit(W^T u), from one pass over the weight.

  The gradient is u v^T: both vectors are held fixed.

  Args:
    weight: at least float32, its output axis of length O at `axis`.
    u: [O] unit, the leading left singular vector.
    axis: of the outputs.
    epsilon: floor of the norm of W^T u.

  Returns:
    sigma0 [] and v, of the weight's shape without its output axis.
  """
  product = power.times_u(weight, lax.stop_gradient(u)[None], axis)[0]
  v = lax.stop_gradient(power.unit(product, epsilon))
  return jnp.sum(product * v), v


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_gradient(
  axis: int, sigma: Array, weight: Array, u: Array, v: Array
) -> Array:
  """A known sigma = u^T W v as a function of W alone.

  To differentiate the products that found it would cost the backward pass a
  contraction over all k vectors, where this one is an outer product.
  """
  del axis, weight, u, v
  return sigma


@_with_gradient.defjvp
def _with_gradient_jvp(
  axis: int, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
  _, _, u, v = primals
  (direction,) = power.times_v(tangents[1], v[None], axis)
  # Through the rule again, for derivatives of higher order.
  return _with_gradient(axis, *primals), jnp.sum(direction * u)


def _outer(u: Array, v: Array, axis: int) -> Array:
  """Makes u v^T, in the shape of a weight."""
  others = tuple(i for i in range(v.ndim + 1) if i != axis % (v.ndim + 1))
  u = jnp.expand_dims(u, others)
  return u * jnp.expand_dims(v, axis)


def flatten(tree: PyTree) -> dict[str, Array]:
  """Nested dictionaries to one, keyed by "a/b/c"."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    flat["/".join(str(entry.key) for entry in path)] = leaf
  return flat


def unflatten(flat: Mapping[str, Array]) -> PyTree:
  """Undoes `flatten`."""
  tree: dict = {}
  for path, leaf in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree
