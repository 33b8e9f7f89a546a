"""Singular values of the weights of a parameter tree, and their uses.

`normalize` divides every selected weight by a running estimate of its largest
singular value (Miyato et al. 2018) and returns the estimates of the first k,
found by a persistent power iteration with Gram-Schmidt deflation (Brock et al.
2019, sec. 4). `track` only estimates, `clamp` cuts the largest one down. One
call is one iteration. Everything is float32 or better at the highest
precision, and contracts the kernel in place, so that of a kernel sharded over
its output channels only vectors travel between devices: two messages, W^T u
and W v, for which `whole` is the constraint that every device holds all of
them. Without it each inner product of Gram-Schmidt would be a message.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.types import Array, PyTree


class Spectrum(NamedTuple):
  """The power iteration of one weight.

  Attributes:
    u: [k, O] left singular vectors, O the length of the weight's output axis.
    sigma: [k] singular values, largest first.
  """

  u: Array
  sigma: Array


# From the path of a weight ("block0/conv1/kernel") to its spectrum.
Spectra = Mapping[str, Spectrum]
Whole = Callable[[Array], Array]


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


def stay(x: Array) -> Array:
  """`whole` for weights that are on every device already."""
  return x


def normalize(
  params: PyTree, spectra: Spectra, epsilon: float, whole: Whole = stay
) -> tuple[PyTree, Spectra]:
  """Divides the tracked weights by their largest singular value.

  The gradient flows through sigma = u^T W v with u and v held fixed.

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    epsilon: floor of the norms in the iteration.
    whole: see this module.

  Returns:
    The same tree with normalized weights, and the iterations one step on.
  """
  flat = flatten(params)
  stepped = {}
  for path, spectrum in spectra.items():
    weight, axis = flat[path], output_axis(path)
    stepped[path], v_k = _power_step(weight, spectrum.u, axis, epsilon, whole)
    u_ko, sigma_k = stepped[path]
    sigma0 = _with_gradient(
      axis, sigma_k[0], weight.astype(sigma_k.dtype), u_ko[0], v_k[0]
    )
    flat[path] = (weight / sigma0).astype(weight.dtype)
  return unflatten(flat), stepped


def normalize_often(
  params: PyTree, spectra: Spectra, times: int, epsilon: float, whole: Whole
) -> tuple[PyTree, dict[str, Array], Spectra]:
  """`normalize` as in `times` forward passes with the same weights.

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    times: forward passes, each of which moves the iterations.
    epsilon: floor of the norms in the iteration.
    whole: see this module.

  Returns:
    The weights as the last pass has them; by path, factors [times] that make
    of these what each pass has; and the iterations `times` steps on.
  """
  flat, factors, stepped = flatten(params), {}, {}
  for path, spectrum in spectra.items():
    weight, axis = flat[path], output_axis(path)

    def one_more(
      u_ko: Array, _: None, weight: Array = weight, axis: int = axis
    ) -> tuple[Array, tuple[Array, Array, Array]]:
      (u_ko, sigma_k), v_k = _power_step(weight, u_ko, axis, epsilon, whole)
      return u_ko, (u_ko[0], v_k[0], sigma_k)

    u_ko, (u_to, v_t, sigma_tk) = lax.scan(
      one_more, spectrum.u, None, length=times
    )
    sigma_t = jax.vmap(
      functools.partial(_with_gradient, axis), in_axes=(0, None, 0, 0)
    )(sigma_tk[:, 0], weight.astype(u_ko.dtype), u_to, v_t)
    flat[path] = (weight / sigma_t[-1]).astype(weight.dtype)
    factors[path] = sigma_t[-1] / sigma_t
    stepped[path] = Spectrum(u_ko, sigma_tk[-1])
  return unflatten(flat), factors, stepped


def normalize_again(
  params: PyTree, spectra: Spectra, epsilon: float, whole: Whole = stay
) -> PyTree:
  """`normalize` that leaves the iterations where they are.

  sigma0 = u0^T W v0 of these weights, with u0 from `spectra` and
  v0 = unit(W^T u0): one pass over the weight. No gradient through sigma0.
  """
  flat = flatten(params)
  for path, spectrum in spectra.items():
    weight = lax.stop_gradient(flat[path]).astype(spectrum.u.dtype)
    axis = output_axis(path)
    product = whole(_times_u(weight, spectrum.u[:1], axis))[0]
    v = _unit(product, epsilon)
    flat[path] = (flat[path] / jnp.sum(product * v)).astype(flat[path].dtype)
  return unflatten(flat)


def track(
  params: PyTree, spectra: Spectra, epsilon: float, whole: Whole = stay
) -> Spectra:
  """The iterations one step on, the weights as they are; no gradient.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of some of them.
    epsilon: floor of the norms in the iteration.
    whole: see this module.
  """
  flat = flatten(params)
  return {
    path: _power_step(
      flat[path], spectrum.u, output_axis(path), epsilon, whole
    ).spectrum
    for path, spectrum in spectra.items()
  }


def clamp(
  params: PyTree, spectra: Spectra, bound: float, epsilon: float
) -> PyTree:
  """Takes what exceeds `bound` off the largest singular value.

  W <- W - max(0, sigma0 - bound) u0 v0^T (Brock et al. 2019, eq. 4), with u0
  from `spectra`, v0 = unit(W^T u0) and sigma0 = u0^T W v0. Exact once u0 has
  converged; before that sigma0 is too small and less is taken.

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of those to clamp.
    bound: of the largest singular value.
    epsilon: floor of the norm of W^T u0.

  Returns:
    The same tree; weights without a spectrum or below the bound are unchanged.
  """
  flat = flatten(params)
  for path, spectrum in spectra.items():
    weight, axis = flat[path], output_axis(path)
    u = spectrum.u[0]
    sigma0, v = leading_value(weight.astype(u.dtype), u, axis, epsilon)
    excess = jnp.maximum(sigma0 - bound, 0)
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
  product = _times_u(weight, lax.stop_gradient(u)[None], axis)[0]
  v = lax.stop_gradient(_unit(product, epsilon))
  return jnp.sum(product * v), v


class _Step(NamedTuple):
  """A spectrum and its right singular vectors [k, ...]."""

  spectrum: Spectrum
  v: Array


def _power_step(
  weight: Array, u_ko: Array, axis: int, epsilon: float, whole: Whole
) -> _Step:
  """One iteration for all k vectors, in two passes over the weight.

  The authors' code goes vector by vector, but each uses the u of the iteration
  before, and of the other vectors only what Gram-Schmidt takes off: products
  with the weight can be taken for all at once. No gradient.
  """
  weight = lax.stop_gradient(weight).astype(u_ko.dtype)
  product_k = whole(_times_u(weight, lax.stop_gradient(u_ko), axis))
  v_k = _gram_schmidt(product_k, epsilon)
  product_ko = whole(_times_v(weight, v_k, axis))
  u_ko = _gram_schmidt(product_ko, epsilon)
  return _Step(Spectrum(u_ko, jnp.sum(product_ko * u_ko, axis=1)), v_k)


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
  (direction,) = _times_v(tangents[1], v[None], axis)
  # Through the rule again, for derivatives of higher order.
  return _with_gradient(axis, *primals), jnp.sum(direction * u)


def _times_u(weight: Array, u_ko: Array, axis: int) -> Array:
  """W^T u for every u: [k, ...], the weight's other axes."""
  return _contract(weight, u_ko, (axis % weight.ndim,))


def _times_v(weight: Array, v_k: Array, axis: int) -> Array:
  """W v for every v: [k, O]."""
  others = (i for i in range(weight.ndim) if i != axis % weight.ndim)
  return _contract(weight, v_k, tuple(others))


def _contract(weight: Array, x_k: Array, axes: tuple[int, ...]) -> Array:
  """Sums over `axes` of the weight, all but the first of x.

  The order of the operands is that of a matrix product in which neither is
  transposed: on CPU the other one takes eight to fourteen times as long.
  """
  of_x = tuple(range(1, x_k.ndim))
  highest = lax.Precision.HIGHEST
  if axes[0] == 0:
    return jnp.tensordot(x_k, weight, axes=(of_x, axes), precision=highest)
  y = jnp.tensordot(weight, x_k, axes=(axes, of_x), precision=highest)
  return jnp.moveaxis(y, -1, 0)


def _outer(u: Array, v: Array, axis: int) -> Array:
  """Makes u v^T, in the shape of a weight."""
  others = tuple(i for i in range(v.ndim + 1) if i != axis % (v.ndim + 1))
  u = jnp.expand_dims(u, others)
  return u * jnp.expand_dims(v, axis)


def _gram_schmidt(x_k: Array, epsilon: float) -> Array:
  """The rows of [k, ...] made orthogonal to those before, and unit."""
  basis: list[Array] = []
  for x in x_k:
    for e in basis:
      x = x - jnp.sum(x * e) * e
    basis.append(_unit(x, epsilon))
  return jnp.stack(basis)


def _unit(x: Array, epsilon: float) -> Array:
  return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), epsilon)


def output_axis(path: str) -> int:
  """Kernels end in their output axis; an embedding's rows are its outputs."""
  return 0 if path.endswith("embedding") else -1


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
