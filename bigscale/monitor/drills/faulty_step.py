"""A training step with knobs for wrong settings.

The knobs are inputs of the compiled program, so all faults of a model share one
program. A fault acts on a step and not on the state. It therefore ends when the
usual step runs again, and the monitor's interventions, which change the state's
dials, are independent of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from bigscale.monitor import probes
from bigscale.ops import precision
from bigscale.ops.images import to_float
from bigscale.parallel import sharding
from bigscale.parallel.sharding import Placement
from bigscale.spec import RunSpec
from bigscale.train import optim
from bigscale.train.build import Built
from bigscale.train.disturb import Step
from bigscale.train.state import GanState, Player
from bigscale.train.step import Codes, GanStep, Reals, Scalars
from bigscale.types import Array, Batch, GanModel, PyTree

# The knobs and their neutral values. The prefixes `g_` and `d_` name the
# player.
#   lr, r1_gamma, r2_gamma, gradient: factors.
#   gradient_noise: standard deviation of noise on the gradient, relative to
#     the root mean square of the whole gradient.
#   gradient_bits: number of significant bits of gradients.
#   beta1, beta2: settings of Adam; below 0, those of the spec.
#   decay: decoupled weight decay, per unit of the learning rate.
#   latents: factor of G's latents.
#   wrong_labels: share of samples that G generates for another sample's label.
#   same_noise: 1 draws the same latents at every step.
#   swapped: share of reals that D takes for fakes, and the reverse.
#   noise_fakes: share of D's fakes that are noise instead of G's images.
#   average: share of the old average that each update of it keeps in addition.
NEUTRAL: Mapping[str, float] = {
  "g_lr": 1.0,
  "d_lr": 1.0,
  "r1_gamma": 1.0,
  "r2_gamma": 1.0,
  "g_gradient": 1.0,
  "d_gradient": 1.0,
  "g_gradient_noise": 0.0,
  "d_gradient_noise": 0.0,
  "g_gradient_bits": 24.0,
  "d_gradient_bits": 24.0,
  "g_beta1": -1.0,
  "d_beta1": -1.0,
  "g_beta2": -1.0,
  "d_beta2": -1.0,
  "g_decay": 0.0,
  "d_decay": 0.0,
  "latents": 1.0,
  "wrong_labels": 0.0,
  "same_noise": 0.0,
  "swapped": 0.0,
  "noise_fakes": 0.0,
  "average": 0.0,
}

Knobs = Mapping[str, Array]
# Values folded into the key of a step, which itself uses small numbers.
_GRADIENT_NOISE, _NOISE_FAKES = 101, 102


class FaultyStep(GanStep):
  """The training step of a model with knobs, which may be traced."""

  def __init__(
    self, model: GanModel, spec: RunSpec, placement: Placement, knobs: Knobs
  ) -> None:
    self._knobs = knobs
    self._player = ""
    self._noise_key: Array | None = None
    apply = model.g.apply

    def generate(
      variables: PyTree, latents: Array, labels: Array, **settings: Any
    ) -> Any:
      wrong = _first(knobs["wrong_labels"], labels)
      labels = jnp.where(wrong, jnp.roll(labels, 1), labels)
      latents = latents * knobs["latents"].astype(latents.dtype)
      return apply(variables, latents, labels, **settings)

    model = model._replace(g=model.g._replace(apply=generate))
    super().__init__(model, spec, placement)

  def __call__(
    self, state: GanState, batch: Batch, images: Array | None = None
  ) -> tuple[GanState, Scalars]:
    """See `GanStep`."""
    dials = state.dials
    names = ("g_lr", "d_lr", "r1_gamma", "r2_gamma")
    turned = {n: getattr(dials, n) * self._knobs[n] for n in names}
    new, scalars = super().__call__(
      state._replace(dials=dials._replace(**turned)), batch, images
    )
    return new._replace(dials=dials), scalars

  def update_d(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array,
    prepared_g: Any = None,
    fakes: Array | None = None,
  ) -> tuple[GanState, Scalars]:
    """See `GanStep`."""
    self._player, self._noise_key = "d_", key
    if fakes is None:
      stacked = jax.tree.map(lambda x: x[None], codes)
      drawn, g = self._fakes(state.g, stacked, prepared_g)
      state, fakes = state._replace(g=g), drawn[0]
    real = reals.images
    if real.dtype == jnp.uint8:
      real = to_float(real, jnp.dtype(self.spec.model.dtype))
    noise = jax.random.uniform(
      jax.random.fold_in(key, _NOISE_FAKES), fakes.shape, fakes.dtype, -1, 1
    )
    fakes = _where(_first(self._knobs["noise_fakes"], fakes), noise, fakes)
    swapped = _first(self._knobs["swapped"], fakes)
    reals = reals._replace(images=_where(swapped, fakes, real))
    fakes = _where(swapped, real, fakes)
    return super().update_d(state, reals, codes, images, key, prepared_g, fakes)

  def update_g(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array,
    prepared_g: Any = None,
  ) -> tuple[GanState, Scalars]:
    """See `GanStep`."""
    self._player, self._noise_key = "g_", key
    return super().update_g(state, reals, codes, images, key, prepared_g)

  def update_average(
    self, state: GanState, images: Array
  ) -> tuple[GanState, Scalars]:
    """See `GanStep`."""
    new, scalars = super().update_average(state, images)
    share = self._knobs["average"]
    ema = jax.tree.map(
      lambda old, mixed: share * old + (1 - share) * mixed, state.ema, new.ema
    )
    distance = probes.distance(ema.params, state.g.params)
    return state._replace(ema=ema), scalars | {"ema/distance": distance}

  def _codes(self, key: Array, real_labels: Array) -> Codes:
    keys = jax.random.key_data(key), jax.random.key_data(jax.random.key(0))
    same = self._knobs["same_noise"] > 0
    key = jax.random.wrap_key_data(jnp.where(same, keys[1], keys[0]))
    return super()._codes(key, real_labels)

  def _adam_step(
    self, player: Player, gradients: PyTree, lr: Array, images: Array
  ) -> tuple[Player, Scalars]:
    beta1, beta2 = self._knob("beta1"), self._knob("beta2")
    beta1 = jnp.where(beta1 < 0, self.spec.optim.beta1, beta1)
    usual = optim.value(self.spec.optim.beta2, images)
    beta2 = jnp.where(beta2 < 0, usual, beta2)
    transformation = optax.chain(
      optax.scale_by_adam(b1=beta1, b2=beta2, eps=self.spec.optim.epsilon),
      optax.scale_by_learning_rate(lr),
    )
    gradients = self._disturbed(gradients)
    updates, optimizer = transformation.update(
      gradients, player.optimizer, player.params
    )
    shrink = lr * self._knob("decay")
    updates = jax.tree.map(lambda u, p: u - shrink * p, updates, player.params)
    params = optax.apply_updates(player.params, updates)
    moved = player._replace(params=params, optimizer=optimizer)
    return moved, probes.movement(gradients, updates, params)

  def _knob(self, name: str) -> Array:
    return self._knobs[self._player + name]

  def _disturbed(self, gradients: PyTree) -> PyTree:
    flat, unravel = ravel_pytree(gradients)
    key = jax.random.fold_in(self._noise_key, _GRADIENT_NOISE)
    size = self._knob("gradient_noise") * jnp.sqrt(jnp.mean(flat**2))
    flat = flat + size * jax.random.normal(key, flat.shape, flat.dtype)
    flat = with_bits(flat * self._knob("gradient"), self._knob("gradient_bits"))
    return unravel(flat)


def with_bits(x: Array, bits: Array) -> Array:
  """Returns x rounded to a number of significant bits."""
  mantissa, exponent = jnp.frexp(x)
  scale = jnp.exp2(jnp.asarray(bits, x.dtype))
  return jnp.ldexp(jnp.round(mantissa * scale) / scale, exponent)


def compile_step(built: Built) -> Callable[[Mapping[str, float]], Step]:
  """Returns a function that takes knobs and returns a training step.

  All returned steps share one program, compiled at the first call.

  Args:
    built: functions of the run.
  """
  spec = built.spec
  placement = Placement(
    built.mesh,
    spec.mesh.weights,
    spec.mesh.min_split_elements,
    spec.model.sharding_rules,
  )
  shardings = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)

  def step(
    state: GanState, batch: Batch, knobs: Knobs
  ) -> tuple[GanState, Scalars]:
    return FaultyStep(built.model, spec, placement, knobs)(state, batch)

  program = jax.jit(
    precision.exact(step),
    out_shardings=(shardings, sharding.replicated(built.mesh)),
    donate_argnums=0,
    compiler_options=dict(built.compiler_options) or None,
  )

  def with_knobs(changes: Mapping[str, float]) -> Step:
    unknown = set(changes) - set(NEUTRAL)
    if unknown:
      raise KeyError(f"there are no knobs {sorted(unknown)}")
    values = {**NEUTRAL, **changes}
    knobs = {name: jnp.float32(value) for name, value in values.items()}
    return lambda state, batch: program(state, batch, knobs)

  return with_knobs


def _first(share: Array, samples: Array) -> Array:
  """Returns [B] bool: whether a sample is in the first `share` of a batch."""
  count = samples.shape[0]
  return jnp.arange(count) < jnp.round(share * count)


def _where(chosen: Array, x: Array, y: Array) -> Array:
  shape = (-1,) + (1,) * (y.ndim - 1)
  return jnp.where(chosen.reshape(shape), x, y).astype(y.dtype)
