"""What a training is at one moment: the tree that checkpoints hold."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigscale.ops import spectral
from bigscale.spec import RunSpec
from bigscale.train import augmentation
from bigscale.train.augmentation import AugmentState
from bigscale.train.optim import adam
from bigscale.types import Array, GanModel, Network, PyTree


class Player(NamedTuple):
  """One network and all that its training carries.

  Attributes:
    params: raw weights, before spectral norm.
    batch_stats: running statistics, {} without batch norm.
    spectra: power iterations of the tracked weights.
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
    augment: of the adaptive augmentation.
  """

  step: Array
  attempt: Array
  g: Player
  d: Player
  ema: Average
  augment: AugmentState


def init_state(model: GanModel, spec: RunSpec) -> GanState:
  """The state before the first step, a function of `spec.seed` alone."""
  key = jax.random.key(spec.seed)
  g = _init_player(model.g, spec, jax.random.fold_in(key, 0))
  d = _init_player(model.d, spec, jax.random.fold_in(key, 1))
  # A copy: two leaves that share a buffer cannot both be donated.
  ema = jax.tree.map(jnp.copy, average_of(g))
  zero = jnp.zeros((), jnp.int32)
  return GanState(
    step=zero,
    # A copy, too.
    attempt=jnp.copy(zero),
    g=g,
    d=d,
    ema=ema,
    augment=augmentation.init(spec),
  )


def average_of(player: Player) -> Average:
  """The part of a player that its moving average covers."""
  return Average(player.params, player.batch_stats, player.spectra)


def _init_player(network: Network, spec: RunSpec, key: Array) -> Player:
  variables = network.init(jax.random.fold_in(key, 0))
  params = variables["params"]
  spectra = spectral.init(
    jax.random.fold_in(key, 1),
    params,
    tracked(network, spec),
    spec.model.num_singular_values,
  )
  return Player(
    params,
    variables["batch_stats"],
    spectra,
    adam(spec.optim, learning_rate=1.0, beta2=0.0).init(params),
  )


def tracked(network: Network, spec: RunSpec) -> Callable[[str], bool]:
  """Whose singular values are followed: at least those that normalize."""
  if getattr(spec.model, "spectra_interval", 0):
    return network.tracked
  return network.spectral
