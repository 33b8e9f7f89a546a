"""Penalties on input gradients and on weights, at least float32; clipping."""

from collections.abc import Callable
from typing import Literal

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
  form: Literal["off_diagonal", "full"] = "off_diagonal",
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
  """
  of_matrix = {"off_diagonal": _off_diagonal_gram, "full": _full_gram}[form]
  total = jnp.zeros(())
  for path, weight in flatten(params).items():
    if weight.ndim < 2 or not select(path):
      continue
    weight = jnp.moveaxis(at_least_float32(weight), output_axis(path), -1)
    w_io = weight.reshape(-1, weight.shape[-1])
    total = total + of_matrix(w_io)
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


def _gram(w_io: Array) -> Array:
  """The smaller of W^T W and W W^T, with the same Frobenius norm."""
  rows, out = w_io.shape
  subscripts = "io,ip->op" if out <= rows else "io,jo->ij"
  return jnp.einsum(subscripts, w_io, w_io, precision=_HIGHEST)


def _off_diagonal_gram(w_io: Array) -> Array:
  """||W^T W o (1 - I)||_F^2 over pairs of columns."""
  rows, out = w_io.shape
  gram = _gram(w_io)
  if out <= rows:
    return jnp.sum(jnp.square(gram * (1 - jnp.eye(out, dtype=gram.dtype))))
  squared_norms_o = jnp.sum(jnp.square(w_io), axis=0)
  return jnp.sum(jnp.square(gram)) - jnp.sum(jnp.square(squared_norms_o))


def _full_gram(w_io: Array) -> Array:
  """||W^T W - I||_F^2 over pairs of columns.

  From the smaller Gram matrix: ||W W^T - I||_F^2 + out - in.
  """
  rows, out = w_io.shape
  gram = _gram(w_io)
  distance = jnp.sum(jnp.square(gram - jnp.eye(len(gram), dtype=gram.dtype)))
  return distance + max(out - rows, 0)
