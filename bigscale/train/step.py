"""One step of training: D updates, G update, moving average, scalars.

Pure functions of state and batch. Randomness is a function of (seed, attempt,
step, use) and of a sample's place in the global batch, never of devices.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bigscale.losses import adversarial, regularizers
from bigscale.ops import augment as augments
from bigscale.ops import spectral
from bigscale.ops.images import to_float
from bigscale.sampling import latents as sampling
from bigscale.spec import RunSpec, Schedule
from bigscale.train import augmentation, optim, tracking
from bigscale.train.judge import (
  FAKE,
  MIXED,
  REAL,
  Fakes,
  Judgement,
  Reals,
  See,
  judge,
)
from bigscale.train.state import Average, GanState, Player, average_of
from bigscale.types import Array, Batch, GanModel, Network, PyTree

Scalars = dict[str, Array]

# What a step's key is folded with: the player, then (D's update, then) the use.
_D, _G = range(2)
_LATENTS, _LABELS, _AUGMENT, _MIX = range(4)


class Codes(NamedTuple):
  """What G is asked for: latents [B, latent_dim] and labels [B] int32."""

  latents: Array
  labels: Array


class GanStep:
  """The updates of one model under one spec."""

  def __init__(self, model: GanModel, spec: RunSpec) -> None:
    self.model = model
    self.spec = spec
    loss = spec.loss
    self._adversarial = adversarial.make(loss.adversarial, loss.label_smoothing)
    self._augment = augments.make(spec.augment.pipe, spec.augment.chosen)

  def __call__(self, state: GanState, batch: Batch) -> tuple[GanState, Scalars]:
    """Does one step.

    Args:
      state: before it. `jit` with donation: it is gone afterwards.
      batch: [batches_per_step, B, ...] of real images.

    Returns:
      The state after it and scalars [] of what happened in it.
    """
    spec = self.spec
    key = jax.random.key(spec.seed)
    key = jax.random.fold_in(jax.random.fold_in(key, state.attempt), state.step)
    d_key, g_key = jax.random.fold_in(key, _D), jax.random.fold_in(key, _G)
    images = optim.images_seen(spec, state.step)

    def one_d_update(
      state: GanState, inputs: tuple[Array, Batch]
    ) -> tuple[GanState, Scalars]:
      index, drawn = inputs
      reals = self._reals(drawn)
      key = jax.random.fold_in(d_key, index)
      codes = self._codes(key, reals)
      return self.update_d(state, reals, codes, images, key)

    steps = spec.optim.d_steps
    d_batches = jax.tree.map(lambda x: x[:steps], batch)
    if steps == 1:
      first = jax.tree.map(lambda x: x[0], d_batches)
      state, scalars = one_d_update(state, (jnp.zeros((), jnp.int32), first))
    else:
      state, per_update = lax.scan(
        one_d_update, state, (jnp.arange(steps), d_batches)
      )
      scalars = jax.tree.map(lambda x: jnp.mean(x, axis=0), per_update)
    # A paired G is compared with a batch of its own; others ignore it.
    reals = self._reals(jax.tree.map(lambda x: x[-1], batch))
    codes = self._codes(g_key, reals)
    state, g_scalars = self.update_g(state, reals, codes, images, g_key)
    state, ema_scalars = self.update_average(state, images)
    scalars |= g_scalars | ema_scalars
    if self.spec.augment.pipe != "none":
      scalars["aug/p"] = augmentation.probability(
        self.spec, state.augment, images
      )
    state = self._close(state)
    scalars |= tracking.sigmas("g", state.g) | tracking.sigmas("d", state.d)
    return state, scalars

  def update_d(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array | None = None,
  ) -> tuple[GanState, Scalars]:
    """One Adam step of D on these reals and fresh fakes.

    Args:
      state: before it.
      reals: [B] of them.
      codes: of as many fakes.
      images: [] shown so far, which schedules follow.
      key: of augmentation and interpolation; None where neither is used.
    """
    drawn, g = self._generate(state.g.params, state.g, codes)
    fakes = Fakes(lax.stop_gradient(drawn), codes.labels)
    d, loss = state.d, self.spec.loss
    lazy = loss.penalty_interval > 1
    due = state.step % loss.penalty_interval == 0 if lazy else None

    def loss_fn(params: PyTree) -> tuple[Array, tuple[PyTree, Scalars]]:
      variables, spectra = self._normalized(params, d, self.model.d)
      see = self._sight(variables, state, images, key)
      judged = judge(see, reals, fakes, loss, due)
      scalars = self._d_losses(judged)
      penalty = self._penalty(judged, images)
      if loss.gradient_penalty:
        term = self._interpolation_penalty(see, reals, fakes, key)
        scalars["d/gradient_penalty"] = term
        penalty = penalty + loss.gradient_penalty * term
      # Adversarial terms and penalties apart in the logs, together here.
      return scalars["d/loss"] + penalty, (spectra, scalars)

    gradients, (spectra, scalars) = jax.grad(loss_fn, has_aux=True)(d.params)
    d, norm = self._adam_step(
      d._replace(spectra=lax.stop_gradient(spectra)),
      gradients,
      self.spec.optim.d_lr,
      images,
    )
    if loss.weight_clip:
      params = regularizers.clip(d.params, loss.weight_clip)
      d = d._replace(params=params)
    scalars["d/grad_norm"] = norm
    seen = augmentation.observe(state.augment, scalars["d/sign_real"])
    return state._replace(g=g, d=d, augment=seen), scalars

  def update_g(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array | None = None,
  ) -> tuple[GanState, Scalars]:
    """One Adam step of G against D as it stands; see `update_d`."""
    variables, d_spectra = self._normalized(
      state.d.params, state.d, self.model.d
    )
    see = self._sight(variables, state, images, key)

    def loss_fn(params: PyTree) -> tuple[Array, tuple[Player, Scalars]]:
      drawn, g = self._generate(params, state.g, codes)
      fake = see(codes.labels, FAKE)(drawn)
      real = None
      if self._adversarial.paired:
        real = see(reals.labels, REAL)(reals.images)
      scalars = {"g/loss": jnp.mean(self._adversarial.g(real, fake))}
      penalty = self._weight_penalty(params, state.g, scalars)
      return scalars["g/loss"] + penalty, (g, scalars)

    gradients, (g, scalars) = jax.grad(loss_fn, has_aux=True)(state.g.params)
    g = g._replace(params=state.g.params)
    g, norm = self._adam_step(g, gradients, self.spec.optim.g_lr, images)
    if self.spec.loss.g_sigma.clamp:
      clamped = spectral.clamp(
        g.params,
        g.spectra,
        self.spec.loss.g_sigma.clamp,
        tracking.epsilon(self.spec),
      )
      g = g._replace(params=clamped)
    scalars["g/grad_norm"] = norm
    d = state.d._replace(spectra=d_spectra)
    return state._replace(g=g, d=d), scalars

  def update_average(
    self, state: GanState, images: Array
  ) -> tuple[GanState, Scalars]:
    """Moves the average towards G."""
    decay = optim.ema_decay(self.spec, images)

    def mix(old: Array, new: Array) -> Array:
      keep = decay.astype(old.dtype)
      return keep * old + (1 - keep) * new

    ema = jax.tree.map(mix, state.ema, average_of(state.g))
    return state._replace(ema=ema), {"ema/decay": decay}

  def _reals(self, drawn: Batch) -> Reals:
    """uint8 to floats of the model's dtype."""
    images = drawn.images
    if images.dtype == jnp.uint8:
      images = to_float(images, jnp.dtype(self.spec.model.dtype))
    return Reals(images, drawn.labels)

  def _codes(self, key: Array, reals: Reals) -> Codes:
    """Fresh latents. RpGAN pairs a fake with a real of the same class."""
    model, count = self.spec.model, self.spec.global_batch_size
    latents = sampling.normal(
      jax.random.fold_in(key, _LATENTS), count, model.latent_dim, model.dtype
    )
    if self.spec.loss.paired:
      return Codes(latents, reals.labels)
    labels = sampling.uniform_labels(
      jax.random.fold_in(key, _LABELS), count, model.num_classes
    )
    return Codes(latents, labels)

  def _normalized(
    self, params: PyTree, player: Player, network: Network
  ) -> tuple[Mapping[str, PyTree], spectral.Spectra]:
    """Variables for `apply`, after spectral norm, and the spectra's step."""
    params, spectra = tracking.normalized(
      params, player.spectra, network, self.spec
    )
    return {"params": params, "batch_stats": player.batch_stats}, spectra

  def _generate(
    self, params: PyTree, g: Player, codes: Codes
  ) -> tuple[Array, Player]:
    """Fakes [B, H, W, C] in training mode; statistics and spectra advance."""
    variables, spectra = self._normalized(params, g, self.model.g)
    fakes, batch_stats = self.model.g.apply(
      variables, codes.latents, codes.labels, train=True
    )
    batch_stats = lax.stop_gradient(batch_stats)
    return fakes, g._replace(batch_stats=batch_stats, spectra=spectra)

  def _sight(
    self,
    variables: Mapping[str, PyTree],
    state: GanState,
    images: Array,
    key: Array | None,
  ) -> See:
    """D behind the augmentation."""
    if self.spec.augment.pipe == "none":
      return lambda labels, use: (
        lambda x: self.model.d.apply(variables, x, labels)
      )
    probability = augmentation.probability(self.spec, state.augment, images)
    augment_key = jax.random.fold_in(key, _AUGMENT)

    def see(labels: Array, use: int) -> Callable[[Array], Array]:
      use_key = jax.random.fold_in(augment_key, use)

      def discriminator(x: Array) -> Array:
        shown = self._augment(use_key, x, probability)
        return self.model.d.apply(variables, shown, labels)

      return discriminator

    return see

  def _d_losses(self, judged: Judgement) -> Scalars:
    """Means over the global batch, without penalties."""
    real, fake, r1, r2 = judged
    loss = self._adversarial.d(real, fake)
    scalars = {
      "d/loss": loss.total,
      "d/logit_real": real,
      "d/logit_fake": fake,
      "d/sign_real": jnp.sign(real),
      "d/r1": r1,
      "d/r2": r2,
    }
    if loss.real is not None:
      scalars |= {"d/loss_real": loss.real, "d/loss_fake": loss.fake}
    return {name: jnp.mean(values) for name, values in scalars.items()}

  def _penalty(self, judged: Judgement, images: Array) -> Array:
    """[] gamma / 2 times R1 and R2, once an interval and as much heavier."""
    loss = self.spec.loss
    r1 = optim.value(loss.r1_gamma, images) * jnp.mean(judged.r1)
    r2 = optim.value(loss.r2_gamma, images) * jnp.mean(judged.r2)
    return loss.penalty_interval * (r1 + r2) / 2

  def _interpolation_penalty(
    self, see: See, reals: Reals, fakes: Fakes, key: Array | None
  ) -> Array:
    """[] of WGAN-GP; a mixture is judged under the real's label."""
    count = self.spec.global_batch_size
    mix_b = jax.random.uniform(
      jax.random.fold_in(key, _MIX), (count,), reals.images.dtype
    )
    return jnp.mean(
      regularizers.interpolation_penalty(
        see(reals.labels, MIXED), reals.images, fakes.images, mix_b
      )
    )

  def _weight_penalty(
    self, params: PyTree, g: Player, scalars: Scalars
  ) -> Array:
    """[] penalties on G's weights; writes each down."""
    loss, total = self.spec.loss, jnp.zeros(())
    if loss.orthogonal:
      scalars["g/ortho"] = regularizers.orthogonal(
        params, self.model.g.orthogonal, loss.orthogonal_form
      )
      total = total + loss.orthogonal * scalars["g/ortho"]
    if loss.g_sigma.strength:
      scalars["g/sigma_penalty"] = regularizers.sigma(
        params, g.spectra, loss.g_sigma
      )
      total = total + loss.g_sigma.strength * scalars["g/sigma_penalty"]
    return total

  def _close(self, state: GanState) -> GanState:
    """What ends a step: counters, and spectra that no forward pass moves."""
    state = state._replace(
      step=state.step + 1,
      augment=augmentation.adjust(self.spec, state.augment, state.step + 1),
    )
    return state._replace(
      g=tracking.tracked(state.g, self.model.g, state.step, self.spec),
      d=tracking.tracked(state.d, self.model.d, state.step, self.spec),
    )

  def _adam_step(
    self, player: Player, gradients: PyTree, lr: Schedule, images: Array
  ) -> tuple[Player, Array]:
    """The player after Adam, and the gradient's norm."""
    transformation = optim.adam(
      self.spec.optim,
      optim.value(lr, images),
      optim.value(self.spec.optim.beta2, images),
    )
    updates, optimizer = transformation.update(
      gradients, player.optimizer, player.params
    )
    params = optax.apply_updates(player.params, updates)
    norm = optax.tree.norm(gradients)
    return player._replace(params=params, optimizer=optimizer), norm


def generate(
  model: GanModel, spec: RunSpec, ema: Average, codes: Codes
) -> Array:
  """Images [B, H, W, C] in about [-1, 1] from the average, as for a user.

  One step of the power iteration is applied and forgotten, as the authors'
  code does in evaluation.
  """
  params, _ = tracking.normalized(ema.params, ema.spectra, model.g, spec)
  variables = {"params": params, "batch_stats": ema.batch_stats}
  images, _ = model.g.apply(variables, codes.latents, codes.labels, train=False)
  return images
