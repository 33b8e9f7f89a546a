"""Prepares parameters for the forward pass, and maps gradients back.

Preparation applies spectral norm, casts to the compute dtype and gathers split
parameters, once for all samples of an update. Its backward pass converts
gradients in the prepared weights to gradients in the parameters.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from bigscale.losses.orthogonal import Whole
from bigscale.ops import power, spectral
from bigscale.parallel.sharding import FSDP, Placement
from bigscale.spec import RunSpec
from bigscale.train import tracking
from bigscale.types import Array, Network, PyTree


class Ready(NamedTuple):
  """Weights prepared for the forward pass.

  Attributes:
    weights: normalized, cast and gathered weights (`Placement.gather`).
    factors: by path, [microbatches] factors of a weight in the forward pass of
      each microbatch; {} if all microbatches use the same weights.
  """

  weights: PyTree
  factors: dict[str, Array]


# Maps gradients in `Ready` to gradients in the parameters.
Pullback = Callable[[Ready], PyTree]


class Preparation:
  """Prepares the weights of one network."""

  def __init__(
    self, network: Network, spec: RunSpec, placement: Placement
  ) -> None:
    self._network = network
    self._spec = spec
    self._placement = placement
    self._iteration = iteration(placement)
    parts = spec.microbatches_on(placement.mesh.size)
    self.once_a_step = spec.model.spectral_update == "step"
    self._passes = 1 if self.once_a_step else parts

  def __call__(
    self, params: PyTree, spectra: spectral.Spectra
  ) -> tuple[Ready, spectral.Spectra, Pullback]:
    """Prepares the weights of one update.

    Args:
      params: parameters of the network.
      spectra: power iteration states; those under spectral norm advance.

    Returns:
      The prepared weights, the new spectra, and the function that maps
      gradients back to the parameters.
    """
    with jax.named_scope("spectral_norm"):
      normal, pullback, stepped = jax.vjp(
        lambda params: self._normalize(params, spectra), params, has_aux=True
      )
    ready = self._place(normal)

    def back(gradients: Ready) -> PyTree:
      with jax.named_scope("spectral_norm"):
        weights = jax.tree.map(
          lambda gradient, weight: gradient.astype(weight.dtype),
          gradients.weights,
          normal.weights,
        )
        return self._placement.split(
          pullback(Ready(weights, gradients.factors))[0]
        )

    return ready, lax.stop_gradient(stepped), back

  def again(self, params: PyTree, spectra: spectral.Spectra) -> Ready:
    """Returns prepared weights without advancing the power iteration."""
    moving = tracking.under_norm(spectra, self._network)
    with jax.named_scope("spectral_norm"):
      normal = spectral.normalize_again(
        params, moving, tracking.epsilon(self._spec), self._iteration
      )
    return self._place(Ready(normal, {}))

  def seen_whole(
    self, ready: Ready, spectra: spectral.Spectra
  ) -> dict[str, Whole]:
    """Returns the unnormalized half precision weights for Gram matrices.

    They are computed from the weights gathered for the forward pass: a weight
    is its largest singular value times the normalized weight.

    Args:
      ready: prepared weights.
      spectra: spectra that normalized these weights.

    Returns:
      Replicated weights by path, each with its scale.
    """
    whole = {}
    for path, weight in spectral.flatten(ready.weights).items():
      if not self._network.half(path):
        continue
      scale = jnp.ones(())
      if self._network.spectral(path):
        scale = spectra[path].sigma[0]
      whole[path] = Whole(self._placement.whole(weight), scale)
    return whole

  def _normalize(
    self, params: PyTree, spectra: spectral.Spectra
  ) -> tuple[Ready, spectral.Spectra]:
    moving = tracking.under_norm(spectra, self._network)
    if not moving:
      return Ready(params, {}), spectra
    epsilon = tracking.epsilon(self._spec)
    factors: dict[str, Array] = {}
    if self._passes == 1:
      params, stepped = spectral.normalize(
        params, moving, epsilon, self._iteration
      )
    else:
      params, factors, stepped = spectral.normalize_often(
        params, moving, self._passes, epsilon, self._iteration
      )
    return Ready(params, factors), {**spectra, **stepped}

  def _place(self, normal: Ready) -> Ready:
    # Without this constraint, XLA gathers a kernel separately for each use.
    weights = self._placement.split(normal.weights)
    flat = spectral.flatten(weights)
    cast = {
      path: (
        weight.astype(jnp.bfloat16) if self._network.half(path) else weight
      )
      for path, weight in flat.items()
    }
    with jax.named_scope("gather"):
      weights = self._placement.gather(spectral.unflatten(cast))
    return Ready(weights, normal.factors)


def iteration(placement: Placement) -> spectral.Iteration:
  """Returns the power iteration for weights with this placement."""
  if not placement.splits:
    return spectral.HERE

  def spread(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    def everywhere(
      weights: Mapping[str, Array], spectra: spectral.Spectra, epsilon: float
    ) -> PyTree:
      weights = {p: lax.stop_gradient(weights[p]) for p in spectra}
      exchange = power.Exchange(
        FSDP, placement.mesh.shape[FSDP], placement.axes(weights)
      )
      return placement.map_devices(
        lambda weights, spectra: function(weights, spectra, epsilon, exchange),
        in_specs=(placement.specs(weights), P()),
        out_specs=P(),
      )(weights, spectra)

    return everywhere

  return spectral.Iteration(
    spread(power.iterate),
    spread(power.leading_values),
    nests=placement.loops_may_send,
  )


def scaled(weights: PyTree, factors: dict[str, Array]) -> PyTree:
  """Multiplies weights by the factors [] of one microbatch."""
  if not factors:
    return weights
  flat = spectral.flatten(weights)
  for path, factor in factors.items():
    flat[path] = (flat[path] * factor).astype(flat[path].dtype)
  return spectral.unflatten(flat)
