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
from bigscale.ops import spectral
from bigscale.ops.images import to_float
from bigscale.sampling import latents as sampling
from bigscale.spec import RunSpec, Schedule
from bigscale.train import optim
from bigscale.train.state import Average, GanState, Player, average_of
from bigscale.types import Array, Batch, GanModel, PyTree

Scalars = dict[str, Array]

# What a step's key is folded with: the player, then (D's update, then) the use.
_D, _G = range(2)
_LATENTS, _LABELS = range(2)


class Reals(NamedTuple):
  """One batch of reals: [B, H, W, C] float in [-1, 1] and [B] int32."""

  images: Array
  labels: Array


class Codes(NamedTuple):
  """What G is asked for: latents [B, latent_dim] and labels [B] int32."""

  latents: Array
  labels: Array


class GanStep:
  """The updates of one model under one spec."""

  def __init__(self, model: GanModel, spec: RunSpec) -> None:
    self.model = model
    self.spec = spec

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
      codes = self._codes(jax.random.fold_in(d_key, index), reals)
      return self.update_d(state, reals, codes, images)

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
    # RpGAN's G is compared with a batch of its own; hinge ignores it.
    reals = self._reals(jax.tree.map(lambda x: x[-1], batch))
    codes = self._codes(g_key, reals)
    state, g_scalars = self.update_g(state, reals, codes, images)
    state, ema_scalars = self.update_average(state, images)
    state = state._replace(step=state.step + 1)
    scalars |= g_scalars | ema_scalars
    scalars |= sigmas("g", state.g) | sigmas("d", state.d)
    return state, scalars

  def update_d(
    self, state: GanState, reals: Reals, codes: Codes, images: Array
  ) -> tuple[GanState, Scalars]:
    """One Adam step of D on these reals and fresh fakes."""
    fakes, g = self._generate(state.g.params, state.g, codes)
    fakes = lax.stop_gradient(fakes)
    d = state.d
    gammas = {
      "r1": optim.value(self.spec.loss.r1_gamma, images),
      "r2": optim.value(self.spec.loss.r2_gamma, images),
    }

    def loss_fn(params: PyTree) -> tuple[Array, tuple[PyTree, Scalars]]:
      variables, spectra = self._normalized(params, d)

      def discriminator(labels: Array) -> Callable[[Array], Array]:
        return lambda x: self.model.d.apply(variables, x, labels)

      real, fake, r1, r2 = self._judge(discriminator, reals, fakes, codes)
      scalars = self._d_losses(real, fake)
      scalars["d/r1"], scalars["d/r2"] = jnp.mean(r1), jnp.mean(r2)
      penalty = gammas["r1"] * jnp.mean(r1) + gammas["r2"] * jnp.mean(r2)
      # Adversarial terms and penalties apart in the logs, together here.
      return scalars["d/loss"] + penalty / 2, (spectra, scalars)

    gradients, (spectra, scalars) = jax.grad(loss_fn, has_aux=True)(d.params)
    d, norm = self._adam_step(
      d._replace(spectra=lax.stop_gradient(spectra)),
      gradients,
      self.spec.optim.d_lr,
      images,
    )
    scalars["d/grad_norm"] = norm
    return state._replace(g=g, d=d), scalars

  def update_g(
    self, state: GanState, reals: Reals, codes: Codes, images: Array
  ) -> tuple[GanState, Scalars]:
    """One Adam step of G against D as it stands."""
    variables, d_spectra = self._normalized(state.d.params, state.d)
    relativistic = self.spec.loss.adversarial == "rpgan"

    def loss_fn(params: PyTree) -> tuple[Array, tuple[Player, Scalars]]:
      fakes, g = self._generate(params, state.g, codes)
      fake = self.model.d.apply(variables, fakes, codes.labels)
      if relativistic:
        real = self.model.d.apply(variables, reals.images, reals.labels)
        loss = jnp.mean(adversarial.rpgan_g(real, fake))
      else:
        loss = jnp.mean(adversarial.hinge_g(fake))
      scalars = {"g/loss": loss}
      if self.spec.loss.orthogonal:
        term = regularizers.orthogonal(params, self.model.g.orthogonal)
        scalars["g/ortho"] = term
        loss = loss + self.spec.loss.orthogonal * term
      return loss, (g, scalars)

    gradients, (g, scalars) = jax.grad(loss_fn, has_aux=True)(state.g.params)
    g = g._replace(params=state.g.params)
    g, norm = self._adam_step(g, gradients, self.spec.optim.g_lr, images)
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
    if self.spec.loss.adversarial == "rpgan":
      return Codes(latents, reals.labels)
    labels = sampling.uniform_labels(
      jax.random.fold_in(key, _LABELS), count, model.num_classes
    )
    return Codes(latents, labels)

  def _normalized(
    self, params: PyTree, player: Player
  ) -> tuple[Mapping[str, PyTree], spectral.Spectra]:
    """Variables for `apply`, after spectral norm, and the spectra's step."""
    spectra = player.spectra
    if spectra:
      params, spectra = spectral.normalize(
        params, spectra, self.spec.model.spectral_epsilon
      )
    return {"params": params, "batch_stats": player.batch_stats}, spectra

  def _generate(
    self, params: PyTree, g: Player, codes: Codes
  ) -> tuple[Array, Player]:
    """Fakes [B, H, W, C] in training mode; statistics and spectra advance."""
    variables, spectra = self._normalized(params, g)
    fakes, batch_stats = self.model.g.apply(
      variables, codes.latents, codes.labels, train=True
    )
    batch_stats = lax.stop_gradient(batch_stats)
    return fakes, g._replace(batch_stats=batch_stats, spectra=spectra)

  def _judge(
    self,
    discriminator: Callable[[Array], Callable[[Array], Array]],
    reals: Reals,
    fakes: Array,
    codes: Codes,
  ) -> tuple[Array, Array, Array, Array]:
    """Logits of reals and fakes [B], R1 and R2 [B] (zeros where unused).

    D takes both in one pass where they are treated alike. Reals and fakes
    alternate there, so that each device keeps its own samples.
    """
    loss = self.spec.loss
    use_r1, use_r2 = is_used(loss.r1_gamma), is_used(loss.r2_gamma)

    def evaluate(x: Array, labels: Array, penalize: bool) -> tuple:
      network = discriminator(labels)
      if penalize:
        return regularizers.logits_and_gradient_penalty(network, x)
      logits = network(x)
      return logits, jnp.zeros_like(logits)

    if use_r1 != use_r2:
      real, r1 = evaluate(reals.images, reals.labels, use_r1)
      fake, r2 = evaluate(fakes, codes.labels, use_r2)
      return real, fake, r1, r2
    both = interleave(fakes, reals.images)
    logits, penalties = evaluate(
      both, interleave(codes.labels, reals.labels), use_r1
    )
    fake, real = logits.reshape(-1, 2).T
    r2, r1 = penalties.reshape(-1, 2).T
    return real, fake, r1, r2

  def _d_losses(self, real: Array, fake: Array) -> Scalars:
    """Means over the global batch, without penalties."""
    scalars = {"d/logit_real": jnp.mean(real), "d/logit_fake": jnp.mean(fake)}
    if self.spec.loss.adversarial == "rpgan":
      scalars["d/loss"] = jnp.mean(adversarial.rpgan_d(real, fake))
      return scalars
    scalars["d/loss_real"] = jnp.mean(adversarial.hinge_d_real(real))
    scalars["d/loss_fake"] = jnp.mean(adversarial.hinge_d_fake(fake))
    scalars["d/loss"] = scalars["d/loss_real"] + scalars["d/loss_fake"]
    return scalars

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


def is_used(schedule: Schedule) -> bool:
  """Whether a penalty of this weight is ever computed."""
  return schedule.first > 0 or schedule.last > 0


def interleave(a: Array, b: Array) -> Array:
  """[B, ...] twice to [2B, ...]: a0 b0 a1 b1 ..."""
  stacked = jnp.stack([a, b], axis=1)
  return stacked.reshape(2 * a.shape[0], *a.shape[1:])


def sigmas(name: str, player: Player) -> Scalars:
  """Tracked singular values, as `g/sigma0/block0.conv1`."""
  return {
    f"{name}/sigma{rank}/{path.removesuffix('/kernel').replace('/', '.')}": s
    for path, spectrum in player.spectra.items()
    for rank, s in enumerate(spectrum.sigma)
  }


def generate(
  model: GanModel, spec: RunSpec, ema: Average, codes: Codes
) -> Array:
  """Images [B, H, W, C] in about [-1, 1] from the average, as for a user.

  One step of the power iteration is applied and forgotten, as the authors'
  code does in evaluation.
  """
  params = ema.params
  if ema.spectra:
    params, _ = spectral.normalize(
      params, ema.spectra, spec.model.spectral_epsilon
    )
  variables = {"params": params, "batch_stats": ema.batch_stats}
  images, _ = model.g.apply(variables, codes.latents, codes.labels, train=False)
  return images
