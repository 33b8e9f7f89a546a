"""What a training is at one moment: the tree that checkpoints hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigscale.ops import spectral
from bigscale.spec import RunSpec
from bigscale.train.optim import adam
from bigscale.types import Array, GanModel, Network, PyTree


class Player(NamedTuple):
  """One network and all that its training carries.

  Attributes:
    params: raw weights, before spectral norm.
    batch_stats: running statistics, {} without batch norm.
    spectra: power iterations, {} without spectral norm.
    optimizer: of Adam.
  """

  params: PyTree
  batch_stats: PyTree
  spectra: spectral.Spectra
  optimizer: optax.OptState


class Average(NamedTuple):
  """The moving average of G, whole: weights, statistics and spectra."""

  params: PyTree
  batch_stats: PyTree
  spectra: spectral.Spectra


class GanState(NamedTuple):
  """The state of a run.

  Attributes:
    step: [] int32, steps done.
    attempt: [] int32, rises at each rollback and changes the noise.
    g: the generator.
    d: the discriminator.
    ema: G's moving average, which is what gets sampled and measured.
  """

  step: Array
  attempt: Array
  g: Player
  d: Player
  ema: Average


def init_state(model: GanModel, spec: RunSpec) -> GanState:
  """The state before the first step, a function of `spec.seed` alone."""
  key = jax.random.key(spec.seed)
  g = _init_player(model.g, spec, jax.random.fold_in(key, 0))
  d = _init_player(model.d, spec, jax.random.fold_in(key, 1))
  # A copy: two leaves that share a buffer cannot both be donated.
  ema = jax.tree.map(jnp.copy, average_of(g))
  return GanState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), g, d, ema)


def average_of(player: Player) -> Average:
  """The part of a player that its moving average covers."""
  return Average(player.params, player.batch_stats, player.spectra)


def _init_player(network: Network, spec: RunSpec, key: Array) -> Player:
  variables = network.init(jax.random.fold_in(key, 0))
  params = variables["params"]
  spectra = spectral.init(
    jax.random.fold_in(key, 1),
    params,
    network.spectral,
    getattr(spec.model, "num_singular_values", 1),
  )
  return Player(
    params,
    variables.get("batch_stats", {}),
    spectra,
    adam(spec.optim, learning_rate=1.0, beta2=0.0).init(params),
  )
