"""The training state, which checkpoints store."""

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
  """The training state of one network.

  Attributes:
    params: parameters before spectral norm.
    batch_stats: running batch statistics; {} without batch norm.
    spectra: power iteration states of the tracked weights.
    optimizer: state of Adam.
  """

  params: PyTree
  batch_stats: PyTree
  spectra: spectral.Spectra
  optimizer: optax.OptState


class Average(NamedTuple):
  """The moving average of G's weights, batch statistics and spectra."""

  params: PyTree
  batch_stats: PyTree
  spectra: spectral.Spectra


# Finite, so that two states can be subtracted.
NO_BOUND = float(jnp.finfo(jnp.float32).max)


class Dials(NamedTuple):
  """Settings that can change during a run without recompilation.

  The monitor's interventions set them. Factors are [] float32 and 1 without
  interventions.

  Attributes:
    g_lr: factor of G's learning rate.
    d_lr: factor of D's learning rate.
    r1_gamma: factor of the weight of R1.
    r2_gamma: factor of the weight of R2.
    g_sigma_bound: by path of G's tracked weights, [] upper bound of sigma0 for
      `clamp_sigma`; initially `NO_BOUND`.
  """

  g_lr: Array
  d_lr: Array
  r1_gamma: Array
  r2_gamma: Array
  g_sigma_bound: dict[str, Array]


class GanState(NamedTuple):
  """The state of a run.

  Attributes:
    seed: [] int32, random seed. It is part of the state so that runs that
      differ only in their seed share a compiled program.
    step: [] int32, number of steps done.
    attempt: [] int32, number of rollbacks; each rollback changes the noise.
    g: the generator.
    d: the discriminator.
    ema: G's moving average, which is used for samples and scores.
    augment: state of the adaptive augmentation.
    dials: settings changed by interventions.
  """

  seed: Array
  step: Array
  attempt: Array
  g: Player
  d: Player
  ema: Average
  augment: AugmentState
  dials: Dials


def init_state(
  model: GanModel, spec: RunSpec, seed: Array | None = None
) -> GanState:
  """Returns the state before the first step.

  Args:
    model: generator and discriminator.
    spec: spec of the run.
    seed: [] int32 random seed; None means `spec.seed`.
  """
  seed = jnp.asarray(spec.seed if seed is None else seed, jnp.int32)
  key = jax.random.key(seed)
  g = _init_player(model.g, spec, jax.random.fold_in(key, 0))
  d = _init_player(model.d, spec, jax.random.fold_in(key, 1))
  # Copied, because leaves that share a buffer cannot both be donated.
  ema = jax.tree.map(jnp.copy, average_of(g))
  zero = jnp.zeros((), jnp.int32)
  return GanState(
    seed=seed,
    step=zero,
    # Copied for the same reason.
    attempt=jnp.copy(zero),
    g=g,
    d=d,
    ema=ema,
    augment=augmentation.init(spec),
    dials=init_dials(g.spectra),
  )


def init_dials(g_spectra: spectral.Spectra) -> Dials:
  """Returns the dials without interventions."""

  def filled(value: float) -> Array:
    # Each dial needs its own buffer, because the state is donated.
    return jnp.full((), value, jnp.float32)

  return Dials(
    g_lr=filled(1),
    d_lr=filled(1),
    r1_gamma=filled(1),
    r2_gamma=filled(1),
    g_sigma_bound={path: filled(NO_BOUND) for path in g_spectra},
  )


def average_of(player: Player) -> Average:
  """Returns the fields of a player that the moving average covers."""
  return Average(player.params, player.batch_stats, player.spectra)


def step_key(state: GanState) -> Array:
  """Returns the random key of a step."""
  key = jax.random.fold_in(jax.random.key(state.seed), state.attempt)
  return jax.random.fold_in(key, state.step)


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
  """Returns a predicate over paths: whether singular values are tracked.

  Weights with spectral norm are always tracked.
  """
  if spec.model.spectra_interval:
    return network.tracked
  return network.spectral
