"""Penalty on the largest singular values of G's weights."""

import jax.numpy as jnp
from jax import lax

from bigscale.losses.terms import Weights, WeightTerm
from bigscale.ops.spectral import (
  Spectra,
  flatten,
  leading_value,
  output_axis,
)
from bigscale.spec import LossSpec, SigmaSpec, require
from bigscale.types import Array, PyTree

# Minimum norm of W^T u in the penalty, as in the authors' power iteration.
_EPSILON = 1e-12


def term(loss: LossSpec) -> WeightTerm | None:
  """Returns the penalty of `loss.g_sigma.strength`, or None if it is off."""
  spec = loss.g_sigma
  if not spec.strength:
    return None

  def value(weights: Weights) -> Array:
    return sigma(weights.params, weights.spectra, spec)

  return WeightTerm(value=value, weight=spec.strength, scalar="g/sigma_penalty")


def sigma(params: PyTree, spectra: Spectra, spec: SigmaSpec) -> Array:
  """Returns the sum over tracked weights of (sigma0 - goal)^2.

  The strength is not included. sigma0 = u0^T W v0, with u0 from `spectra` and
  v0 = unit(W^T u0). No gradient flows through u0 and v0, so the gradient in W
  is 2 (sigma0 - goal) u0 v0^T (Brock et al. 2019, sec. 4.1).

  Args:
    params: nested dictionary of weights.
    spectra: power iterations of the weights.
    spec: the penalty's `goal`. If it is 0, the goal is `ratio` times the sigma1
      of `spectra`, and weights with only one tracked singular value are
      skipped.

  Raises:
    SpecError: all weights would be skipped.
  """
  if not spec.goal:
    spectra = {path: s for path, s in spectra.items() if len(s.sigma) > 1}
    require(
      bool(spectra),
      f"loss.g_sigma.goal={spec.goal} compares sigma0 with sigma1, but no "
      "weight tracks sigma1; set model.num_singular_values to 2 or more, or "
      "set loss.g_sigma.goal",
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
