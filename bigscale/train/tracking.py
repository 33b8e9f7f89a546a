"""Singular values of a network's weights, for spectral norm and for logging.

The power iteration of weights with spectral norm advances according to
`model.spectral_update`. For the other tracked weights, it advances every
`model.spectra_interval` steps, only for logging.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.ops import spectral
from bigscale.spec import RunSpec
from bigscale.train.state import Player
from bigscale.types import Array, Network, PyTree


def epsilon(spec: RunSpec) -> float:
  """Returns the epsilon of the power iteration."""
  return spec.model.spectral_epsilon


def under_norm(spectra: spectral.Spectra, network: Network) -> spectral.Spectra:
  """Returns the spectra of the weights with spectral norm."""
  return {
    path: spectrum
    for path, spectrum in spectra.items()
    if network.spectral(path)
  }


def normalized(
  params: PyTree, spectra: spectral.Spectra, network: Network, spec: RunSpec
) -> tuple[PyTree, spectral.Spectra]:
  """Applies spectral norm after one power iteration step.

  Returns:
    The parameters, normalized where the network has spectral norm, and all
    spectra after the step.
  """
  moving = under_norm(spectra, network)
  if not moving:
    return params, spectra
  params, stepped = spectral.normalize(params, moving, epsilon(spec))
  return params, {**spectra, **stepped}


def tracked(
  player: Player,
  network: Network,
  step: Array,
  spec: RunSpec,
  iteration: spectral.Iteration = spectral.HERE,
) -> Player:
  """Advances the spectra of weights without spectral norm if due."""
  free = {
    path: spectrum
    for path, spectrum in player.spectra.items()
    if not network.spectral(path)
  }
  if not free:
    return player
  due = step % spec.model.spectra_interval == 0

  def track(spectra: spectral.Spectra) -> spectral.Spectra:
    return spectral.track(player.params, spectra, epsilon(spec), iteration)

  if iteration.nests:
    stepped = lax.cond(due, track, lambda spectra: spectra, free)
  else:
    stepped = jax.tree.map(
      lambda new, old: jnp.where(due, new, old), track(free), free
    )
  return player._replace(spectra={**player.spectra, **stepped})


def sigmas(name: str, player: Player) -> dict[str, Array]:
  """Returns the tracked singular values, named like `g/sigma0/block0.conv1`."""
  return {
    f"{name}/sigma{rank}/{path.removesuffix('/kernel').replace('/', '.')}": s
    for path, spectrum in player.spectra.items()
    for rank, s in enumerate(spectrum.sigma)
  }
