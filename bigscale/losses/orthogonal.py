"""Orthogonal regularization of G's weights."""

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.losses.adversarial import at_least_float32
from bigscale.losses.terms import Weights, WeightTerm
from bigscale.ops.spectral import flatten, output_axis
from bigscale.spec import LossSpec
from bigscale.types import Array, PyTree

_HIGHEST = lax.Precision.HIGHEST

Form = Literal["off_diagonal", "full"]


class Whole(NamedTuple):
  """An unsharded weight: `scale` [] times `weight`."""

  weight: Array
  scale: Array


def term(loss: LossSpec) -> WeightTerm | None:
  """Returns the penalty of `loss.orthogonal`, or None if it is off."""
  if not loss.orthogonal:
    return None

  def value(weights: Weights) -> Array:
    with jax.named_scope("orthogonal"):
      return orthogonal(
        weights.params, weights.orthogonal, loss.orthogonal_form, weights.whole
      )

  return WeightTerm(value=value, weight=loss.orthogonal, scalar="g/ortho")


def orthogonal(
  params: PyTree,
  select: Callable[[str], bool],
  form: Form = "off_diagonal",
  whole: Mapping[str, Whole] | None = None,
) -> Array:
  """Returns the sum over weights of their output filters' non-orthogonality.

  `off_diagonal` is ||W^T W o (1 - I)||_F^2 (Brock et al. 2019, eq. 3), `full`
  is ||W^T W - I||_F^2 (eq. 2), both before the factor beta. The Gram matrix
  compares every pair of output filters. If filters outnumber inputs, the same
  sums are computed from the smaller Gram matrix, because ||W W^T||_F = ||W^T
  W||_F. So no matrix is larger than min(in, out)^2; for BigGAN-128's first
  layer it would otherwise be 24,576^2.

  Args:
    params: nested dictionary of weights.
    select: selects the weights to penalize, by path; vectors are skipped.
    form: form of the penalty, see above.
    whole: unsharded weights by path, for weights that are sharded. A device
      compares all filters with the filters of its own shard, in the dtype of
      the unsharded weight. Weights that are not in `whole` are compared as they
      are.
  """
  total = jnp.zeros(())
  for path, weight in flatten(params).items():
    if weight.ndim < 2 or not select(path):
      continue
    w_io = _matrix(at_least_float32(weight), path)
    rows, out = w_io.shape
    if out > rows:
      wide = {"off_diagonal": _wide_off_diagonal, "full": _wide_full}[form]
      total = total + wide(w_io)
      continue
    all_io, scale = w_io, jnp.ones((), w_io.dtype)
    if whole and path in whole:
      all_io, scale = _matrix(whole[path].weight, path), whole[path].scale
    total = total + _distance(
      form,
      w_io,
      lax.stop_gradient(all_io),
      lax.stop_gradient(scale).astype(w_io.dtype),
    )
  return total


def _matrix(weight: Array, path: str) -> Array:
  """Returns a weight as a matrix [in, out]."""
  weight = jnp.moveaxis(weight, output_axis(path), -1)
  return weight.reshape(-1, weight.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _distance(form: Form, w_io: Array, all_io: Array, scale: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 or ||W^T W - I||_F^2, W = scale * all_io.

  Only the Gram matrix's columns of w_io, this device's filters of W, are
  summed. The gradient 4 W (W^T W o (1 - I)) covers only those columns, because
  other devices compute the gradients of their own shards.
  """
  return jnp.sum(jnp.square(_deviation(form, w_io, all_io, scale)))


def _deviation(form: Form, w_io: Array, all_io: Array, scale: Array) -> Array:
  gram_oo = scale * _product("io,ip->op", all_io, w_io)
  identity_oo = jnp.eye(gram_oo.shape[0], dtype=gram_oo.dtype)
  if form == "full":
    return gram_oo - identity_oo
  return gram_oo * (1 - identity_oo)


def _distance_forward(
  form: Form, w_io: Array, all_io: Array, scale: Array
) -> tuple[Array, tuple[Array, ...]]:
  deviation_oo = _deviation(form, w_io, all_io, scale)
  total = jnp.sum(jnp.square(deviation_oo))
  return total, (deviation_oo, all_io, scale)


def _distance_backward(
  form: Form, kept: tuple[Array, ...], slope: Array
) -> tuple[Array | None, ...]:
  del form
  deviation_oo, all_io, scale = kept
  gradient_io = 4 * scale * _product("io,op->ip", all_io, deviation_oo)
  return slope * gradient_io, None, None


_distance.defvjp(_distance_forward, _distance_backward)


def _product(subscripts: str, all_io: Array, other: Array) -> Array:
  """Computes an einsum in `all_io`'s dtype, accumulated in `other`'s dtype."""
  return jnp.einsum(
    subscripts,
    all_io,
    other.astype(all_io.dtype),
    precision=_HIGHEST,
    preferred_element_type=other.dtype,
  )


def _small_gram(w_io: Array) -> Array:
  """Returns W W^T, which has the same Frobenius norm as W^T W."""
  return jnp.einsum("io,jo->ij", w_io, w_io, precision=_HIGHEST)


def _wide_off_diagonal(w_io: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 for a matrix with more columns than rows."""
  squared_norms_o = jnp.sum(jnp.square(w_io), axis=0)
  whole = jnp.sum(jnp.square(_small_gram(w_io)))
  return whole - jnp.sum(jnp.square(squared_norms_o))


def _wide_full(w_io: Array) -> Array:
  """||W^T W - I||_F^2 = ||W W^T - I||_F^2 + out - in."""
  rows, out = w_io.shape
  gram = _small_gram(w_io)
  distance = jnp.sum(jnp.square(gram - jnp.eye(rows, dtype=gram.dtype)))
  return distance + (out - rows)
