"""Penalties on input gradients and on weights, at least float32; clipping."""

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.losses.adversarial import at_least_float32
from bigscale.ops.spectral import (
  Spectra,
  flatten,
  leading_value,
  output_axis,
)
from bigscale.spec import SigmaSpec, require
from bigscale.types import Array, PyTree

_HIGHEST = lax.Precision.HIGHEST
# Floor of the norm of W^T u in the sigma penalty, as in the authors' iteration.
_EPSILON = 1e-12

Form = Literal["off_diagonal", "full"]


class Whole(NamedTuple):
  """A weight as every device has it: `scale` [] times `weight`."""

  weight: Array
  scale: Array


def logits_and_gradient_penalty(
  discriminator: Callable[[Array], Array], images_bhwc: Array
) -> tuple[Array, Array]:
  """D and the squared norm of its input gradient, from one forward pass.

  On reals this is R1, on fakes R2: sum over H, W and C, per sample, without
  the factor gamma / 2 (Mescheder et al. 2018, eq. 9; Huang et al. 2024,
  eq. 3). Samples must not see each other in D.

  Args:
    discriminator: images to logits, with any augmentation inside.
    images_bhwc: [B, H, W, C] at least float32, so that the gradient is too.

  Returns:
    Logits [B] and penalties [B].
  """
  logits, pullback = jax.vjp(discriminator, images_bhwc)
  (gradient_bhwc,) = pullback(jnp.ones_like(logits))
  squares = jnp.square(at_least_float32(gradient_bhwc))
  return logits, jnp.sum(squares, axis=(1, 2, 3))


def interpolation_penalty(
  discriminator: Callable[[Array], Array],
  reals_bhwc: Array,
  fakes_bhwc: Array,
  mix_b: Array,
) -> Array:
  """(|grad D| - 1)^2 between reals and fakes, per sample, before the weight.

  Gulrajani et al. 2017, eq. 3. Samples must not see each other in D. Where the
  gradient vanishes the penalty is 1 and its own gradient 0.

  Args:
    discriminator: images to logits [B].
    reals_bhwc: [B, H, W, C].
    fakes_bhwc: [B, H, W, C].
    mix_b: [B] in [0, 1], the share of the real in each mixture; uniform draws.

  Returns:
    [B].
  """
  mix = at_least_float32(mix_b)[:, None, None, None]
  reals, fakes = at_least_float32(reals_bhwc), at_least_float32(fakes_bhwc)
  _, squares = logits_and_gradient_penalty(
    discriminator, mix * reals + (1 - mix) * fakes
  )
  # The inner `where` keeps sqrt's slope at zero, infinite, out of the product.
  positive = squares > 0
  norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
  return jnp.square(norms - 1)


def clip(params: PyTree, bound: float) -> PyTree:
  """Every weight into [-bound, bound] (Arjovsky et al. 2017, algorithm 1)."""
  return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), params)


def orthogonal(
  params: PyTree,
  select: Callable[[str], bool],
  form: Form = "off_diagonal",
  whole: Mapping[str, Whole] | None = None,
) -> Array:
  """Sum over weights of how far their output filters are from orthogonal.

  `off_diagonal` is ||W^T W o (1 - I)||_F^2 (Brock et al. 2019, eq. 3), `full`
  is ||W^T W - I||_F^2 (eq. 2), both before the factor beta. The Gram matrix
  compares every pair of output filters. Where they outnumber the inputs the
  same sums come from the smaller Gram matrix: ||W W^T||_F = ||W^T W||_F. So no
  matrix is larger than min(in, out)^2: BigGAN-128's first layer would need
  24,576^2.

  Args:
    params: nested dictionary of weights.
    select: names the weights covered, by path; vectors are skipped.
    form: see above.
    whole: weights that every device has whole, by path. A device then
      compares all filters with its own part of them, in the dtype of the
      whole ones. Weights that are not in it are compared as they are.
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


def sigma(params: PyTree, spectra: Spectra, spec: SigmaSpec) -> Array:
  """Sum over tracked weights of (sigma0 - goal)^2, before the strength.

  sigma0 = u0^T W v0 with u0 from `spectra` and v0 = unit(W^T u0), both held
  fixed, so that the gradient in W is 2 (sigma0 - goal) u0 v0^T (Brock et al.
  2019, sec. 4.1).

  Args:
    params: nested dictionary of weights.
    spectra: their power iterations.
    spec: `goal`, or where it is 0 `ratio` times the sigma1 of `spectra`;
      weights with one tracked singular value are then left out.

  Raises:
    SpecError: that leaves no weight.
  """
  if not spec.goal:
    spectra = {path: s for path, s in spectra.items() if len(s.sigma) > 1}
    require(
      bool(spectra),
      f"loss.g_sigma.goal={spec.goal} compares sigma0 with sigma1, which is "
      "tracked for no weight; track two singular values or more "
      "(model.num_singular_values), or set a goal",
    )
  total = jnp.zeros(())
  flat = flatten(params)
  for path, spectrum in spectra.items():
    goal = spec.goal or spec.ratio * lax.stop_gradient(spectrum.sigma[1])
    sigma0, _ = leading_value(
      flat[path].astype(spectrum.u.dtype),
      spectrum.u[0],
      output_axis(path),
      _EPSILON,
    )
    total = total + jnp.square(sigma0 - goal)
  return total


def _matrix(weight: Array, path: str) -> Array:
  """[in, out], outputs last."""
  weight = jnp.moveaxis(weight, output_axis(path), -1)
  return weight.reshape(-1, weight.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _distance(form: Form, w_io: Array, all_io: Array, scale: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 or ||W^T W - I||_F^2, W = scale * all_io.

  Of the Gram matrix's columns those of w_io, which are W's or some of them,
  with the gradient 4 W (W^T W o (1 - I)) in those alone: what another device
  has of W answers for its own.
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
  """In the dtype of `all_io`, summed in that of `other`."""
  return jnp.einsum(
    subscripts,
    all_io,
    other.astype(all_io.dtype),
    precision=_HIGHEST,
    preferred_element_type=other.dtype,
  )


def _small_gram(w_io: Array) -> Array:
  """W W^T, with the Frobenius norm of W^T W."""
  return jnp.einsum("io,jo->ij", w_io, w_io, precision=_HIGHEST)


def _wide_off_diagonal(w_io: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 over pairs of columns, more than rows."""
  squared_norms_o = jnp.sum(jnp.square(w_io), axis=0)
  whole = jnp.sum(jnp.square(_small_gram(w_io)))
  return whole - jnp.sum(jnp.square(squared_norms_o))


def _wide_full(w_io: Array) -> Array:
  """||W^T W - I||_F^2 = ||W W^T - I||_F^2 + out - in."""
  rows, out = w_io.shape
  gram = _small_gram(w_io)
  distance = jnp.sum(jnp.square(gram - jnp.eye(rows, dtype=gram.dtype)))
  return distance + (out - rows)
