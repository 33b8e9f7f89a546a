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


# Not infinite: whoever compares two states may subtract them.
NO_BOUND = float(jnp.finfo(jnp.float32).max)


class Dials(NamedTuple):
  """What may be turned while a run goes on, without another program.

  The monitor's interventions turn them. Factors are [] float32, 1 in a run
  that nobody touched.

  Attributes:
    g_lr: of G's learning rate.
    d_lr: of D's.
    r1_gamma: of the weight of R1.
    r2_gamma: of that of R2.
    g_sigma_bound: by path of G's tracked weights, [] the bound of sigma0 that
      `clamp_sigma` holds; out of reach at first.
  """

  g_lr: Array
  d_lr: Array
  r1_gamma: Array
  r2_gamma: Array
  g_sigma_bound: dict[str, Array]


class GanState(NamedTuple):
  """The state of a run.

  Attributes:
    seed: [] int32, of everything that is drawn. Here, so that runs that differ
      in it alone share one compiled program.
    step: [] int32, steps done.
    attempt: [] int32, rises at each rollback and changes the noise.
    g: the generator.
    d: the discriminator.
    ema: G's moving average, which is what gets sampled and measured.
    augment: of the adaptive augmentation.
    dials: of interventions.
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
  """The state before the first step, a function of the seed alone.

  Args:
    model: of the run.
    spec: of the run.
    seed: [] int32; `spec.seed` where None.
  """
  seed = jnp.asarray(spec.seed if seed is None else seed, jnp.int32)
  key = jax.random.key(seed)
  g = _init_player(model.g, spec, jax.random.fold_in(key, 0))
  d = _init_player(model.d, spec, jax.random.fold_in(key, 1))
  # A copy: two leaves that share a buffer cannot both be donated.
  ema = jax.tree.map(jnp.copy, average_of(g))
  zero = jnp.zeros((), jnp.int32)
  return GanState(
    seed=seed,
    step=zero,
    # A copy, too.
    attempt=jnp.copy(zero),
    g=g,
    d=d,
    ema=ema,
    augment=augmentation.init(spec),
    dials=init_dials(g.spectra),
  )


def init_dials(g_spectra: spectral.Spectra) -> Dials:
  """All as the spec has it."""

  def filled(value: float) -> Array:
    # An array of its own each: they are donated.
    return jnp.full((), value, jnp.float32)

  return Dials(
    g_lr=filled(1),
    d_lr=filled(1),
    r1_gamma=filled(1),
    r2_gamma=filled(1),
    g_sigma_bound={path: filled(NO_BOUND) for path in g_spectra},
  )


def average_of(player: Player) -> Average:
  """The part of a player that its moving average covers."""
  return Average(player.params, player.batch_stats, player.spectra)


def step_key(state: GanState) -> Array:
  """The key of all that this step draws."""
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
  """Whose singular values are followed: at least those that normalize."""
  if spec.model.spectra_interval:
    return network.tracked
  return network.spectral
