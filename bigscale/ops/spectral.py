"""Spectral norm as a pure transform of the parameter tree.

`normalize` divides every selected weight by a running estimate of its largest
singular value (Miyato et al. 2018) and returns the estimates of the first k,
found by a persistent power iteration with Gram-Schmidt deflation (Brock et al.
2019, sec. 4). One call is one iteration. Everything is float32 or better at
the highest precision, and contracts the kernel in place: a reshape to a matrix
would gather a kernel that is sharded over its output channels.
"""

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


def init(
  key: Array, params: PyTree, select: Callable[[str], bool], k: int
) -> Spectra:
  """Random unit vectors for every weight that `select(path)` names.

  A weight has at most as many singular values as its smaller side.
  """
  spectra = {}
  for i, (path, weight) in enumerate(flatten(params).items()):
    if not select(path):
      continue
    out = weight.shape[output_axis(path)]
    count = min(k, out, weight.size // out)
    u = jax.random.normal(jax.random.fold_in(key, i), (count, out))
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    spectra[path] = Spectrum(u.astype(dtype), jnp.ones(count, dtype))
  return spectra


def normalize(
  params: PyTree, spectra: Spectra, epsilon: float
) -> tuple[PyTree, Spectra]:
  """Divides the tracked weights by their largest singular value.

  The gradient flows through sigma = v^T W u with u and v held fixed.

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    epsilon: floor of the norms in the iteration.

  Returns:
    The same tree with normalized weights, and the iterations one step on.
  """
  flat = flatten(params)
  stepped = {}
  for path, spectrum in spectra.items():
    weight = flat[path]
    u_ko, sigma_k = _power_step(
      weight.astype(spectrum.u.dtype), spectrum.u, output_axis(path), epsilon
    )
    stepped[path] = Spectrum(
      lax.stop_gradient(u_ko), lax.stop_gradient(sigma_k)
    )
    flat[path] = (weight / sigma_k[0]).astype(weight.dtype)
  return unflatten(flat), stepped


def _power_step(
  weight: Array, u_ko: Array, axis: int, epsilon: float
) -> tuple[Array, Array]:
  """One step of the iteration for each vector; sigma keeps its gradient."""
  frozen = lax.stop_gradient(weight)
  us, vs, sigmas = [], [], []
  for u in u_ko:
    v = _unit(_orthogonal_to(_times_u(frozen, u, axis), vs), epsilon)
    vs.append(v)
    u = _unit(_orthogonal_to(_times_v(frozen, v, axis), us), epsilon)
    us.append(u)
    projected = _times_v(weight, v, axis)
    sigmas.append(jnp.sum(projected * u))
  return jnp.stack(us), jnp.stack(sigmas)


def _times_u(weight: Array, u: Array, axis: int) -> Array:
  """Contracts the output axis."""
  return jnp.tensordot(
    weight, u, axes=((axis,), (0,)), precision=lax.Precision.HIGHEST
  )


def _times_v(weight: Array, v: Array, axis: int) -> Array:
  """Contracts all the other axes."""
  others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
  return jnp.tensordot(
    weight,
    v,
    axes=(others, tuple(range(v.ndim))),
    precision=lax.Precision.HIGHEST,
  )


def _orthogonal_to(x: Array, basis: list[Array]) -> Array:
  """Gram-Schmidt: what is left of x outside the unit vectors of `basis`."""
  for e in basis:
    x = x - jnp.sum(x * e) * e
  return x


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
