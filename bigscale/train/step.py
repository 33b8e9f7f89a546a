"""One step of training: D updates, G update, moving average, scalars.

Pure functions of state and batch. Randomness is a function of (seed, attempt,
step, use) and of a sample's place in the global batch, never of devices.

An update has two halves. What concerns weights alone (`weights`: spectral
norm; here: Adam, the orthogonal term, the average) is written for whole arrays
and split by XLA as the state's shardings say. What concerns samples
(`objective`) runs on each device for its own part of the batch, and its sums
cross devices once (`microbatches`).
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from bigscale.losses import orthogonal, sigma
from bigscale.losses.terms import Weights
from bigscale.losses.weight_clip import clip
from bigscale.monitor import probes
from bigscale.ops import spectral
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import MeshSpec, RunSpec
from bigscale.train import augmentation, optim, tracking
from bigscale.train.discriminator_pass import Reals
from bigscale.train.draw import Draw
from bigscale.train.microbatches import SampleGradient
from bigscale.train.objective import Codes, Objective, Scalars, draw_codes
from bigscale.train.state import Average, GanState, Player, average_of, step_key
from bigscale.train.weights import Preparation, Pullback, Ready, iteration
from bigscale.types import Array, Batch, GanModel, PyTree

# What a step's key is folded with: the player, then (D's update, then) the use.
_D, _G = range(2)

# What may be penalized of G's weights.
_WEIGHT_TERMS = (orthogonal.term, sigma.term)

# Weights of an update, the spectra after it, the way back of gradients.
PreparedUpdate = tuple[Ready, spectral.Spectra, Pullback]


class GanStep:
  """The updates of one model under one spec."""

  def __init__(
    self, model: GanModel, spec: RunSpec, placement: Placement | None = None
  ) -> None:
    """Makes the functions; computes nothing.

    Args:
      model: made for the mesh of `placement`.
      spec: of the run.
      placement: of its arrays; None is one device.
    """
    self.model = model
    self.spec = spec
    self._placement = placement or Placement(_one_device())
    self._objective = Objective(
      model, spec, branches=self._placement.loops_may_send
    )
    terms = (of(spec.loss) for of in _WEIGHT_TERMS)
    self._weight_terms = [term for term in terms if term]
    self._draw = Draw(model.g, spec, self._placement)
    self._sample_gradient = SampleGradient(spec, self._placement)
    self._iteration = iteration(self._placement)
    self._ready_g = Preparation(model.g, spec, self._placement)
    self._ready_d = Preparation(model.d, spec, self._placement)

  def __call__(
    self, state: GanState, batch: Batch, images: Array | None = None
  ) -> tuple[GanState, Scalars]:
    """Does one step.

    Args:
      state: before it. `jit` with donation: it is gone afterwards.
      batch: [batches_per_step, B, ...] of real images.
      images: [] shown before it; None where all steps had this batch size.

    Returns:
      The state after it and scalars [] of what happened in it.
    """
    spec = self.spec
    key = step_key(state)
    d_key, g_key = jax.random.fold_in(key, _D), jax.random.fold_in(key, _G)
    if images is None:
      images = optim.images_seen(spec, state.step)
    steps = spec.optim.d_steps
    d_batches = jax.tree.map(lambda x: x[:steps], batch)
    keys = [jax.random.fold_in(d_key, i) for i in range(steps)]
    codes = [
      self._codes(key, d_batches.labels[i]) for i, key in enumerate(keys)
    ]
    codes = jax.tree.map(lambda *each: jnp.stack(each), *codes)
    prepared = fakes = None
    if self._ready_g.once_a_step:
      # G stands still until its own update.
      prepared = self._ready_g(state.g.params, state.g.spectra)
      if spec.optim.fakes_at_once and self._draw.of_all_updates:
        fakes, g = self._fakes(state.g, codes, prepared)
        state = state._replace(g=g)

    def one_d_update(
      state: GanState, inputs: tuple[Array, Batch, Codes, Array | None]
    ) -> tuple[GanState, Scalars]:
      index, drawn, codes, fakes = inputs
      reals = Reals(drawn.images, drawn.labels)
      key = jax.random.fold_in(d_key, index)
      return self.update_d(state, reals, codes, images, key, prepared, fakes)

    inputs = (jnp.arange(steps), d_batches, codes, fakes)
    if steps == 1:
      state, scalars = one_d_update(state, jax.tree.map(lambda x: x[0], inputs))
    else:
      state, per_update = lax.scan(
        one_d_update,
        state,
        inputs,
        unroll=1 if self._placement.loops_may_send else steps,
      )
      scalars = jax.tree.map(lambda x: jnp.mean(x, axis=0), per_update)
    # A paired G is compared with a batch of its own; others ignore it.
    last = jax.tree.map(lambda x: x[-1], batch)
    reals = Reals(last.images, last.labels)
    codes = self._codes(g_key, reals.labels)
    state, g_scalars = self.update_g(
      state, reals, codes, images, g_key, prepared
    )
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
    prepared_g: PreparedUpdate | None = None,
    fakes: Array | None = None,
  ) -> tuple[GanState, Scalars]:
    """One Adam step of D on these reals and as many fakes.

    Args:
      state: before it.
      reals: [B] of them, uint8 or float in [-1, 1].
      codes: of as many fakes.
      images: [] shown so far, which schedules follow.
      key: of augmentation and interpolation; None where neither is used.
      prepared_g: G's weights where they are ready; its spectra then stay.
      fakes: [B, H, W, C] of those codes; None draws them.
    """
    g, d = state.g, state.d
    if fakes is None:
      drawn, g = self._fakes(g, jax.tree.map(_one_more_axis, codes), prepared_g)
      fakes = drawn[0]
    samples = self._samples(key, reals, codes, self._objective.d_uses, fakes)
    ready_d, d_spectra, back = self._ready_d(d.params, d.spectra)
    with jax.named_scope("d_update"):
      outcome = self._sample_gradient(
        self._objective.d_loss,
        ready_d,
        Ready({}, {}),
        {},
        samples,
        self._objective.shared(state, images),
      )
    d, norms = self._adam_step(
      d._replace(spectra=d_spectra),
      back(outcome.gradients),
      optim.value(self.spec.optim.d_lr, images) * state.dials.d_lr,
      images,
    )
    if self.spec.loss.weight_clip:
      params = clip(d.params, self.spec.loss.weight_clip)
      d = d._replace(params=params)
    told = norms | outcome.noise
    scalars = outcome.scalars | {f"d/{k}": x for k, x in told.items()}
    seen = augmentation.observe(state.augment, scalars["d/sign_real"])
    return state._replace(g=g, d=d, augment=seen), scalars

  def update_g(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array | None = None,
    prepared_g: PreparedUpdate | None = None,
  ) -> tuple[GanState, Scalars]:
    """One Adam step of G against D as it stands; see `update_d`."""
    g, d = state.g, state.d
    ready_g, g_spectra, back = prepared_g or self._ready_g(g.params, g.spectra)
    if self._ready_d.once_a_step:
      ready_d = self._ready_d.again(d.params, d.spectra)
    else:
      ready_d, d_spectra, _ = self._ready_d(d.params, d.spectra)
      d = d._replace(spectra=d_spectra)
    with jax.named_scope("g_update"):
      outcome = self._sample_gradient(
        self._objective.g_loss,
        ready_g,
        ready_d,
        g.batch_stats,
        self._samples(key, reals, codes, self._objective.g_uses),
        self._objective.shared(state, images),
      )
    gradients = back(outcome.gradients)
    scalars = outcome.scalars
    penalized, penalties = self._weight_penalty(g, ready_g, g_spectra)
    if penalized is not None:
      gradients = jax.tree.map(jnp.add, gradients, penalized)
    g = g._replace(batch_stats=outcome.batch_stats, spectra=g_spectra)
    lr = optim.value(self.spec.optim.g_lr, images) * state.dials.g_lr
    g, norms = self._adam_step(g, gradients, lr, images)
    g = self._clamped(g, state.dials.g_sigma_bound)
    told = norms | outcome.noise
    scalars |= penalties | {f"g/{k}": x for k, x in told.items()}
    return state._replace(g=g, d=d), scalars

  def update_average(
    self, state: GanState, images: Array
  ) -> tuple[GanState, Scalars]:
    """Moves the average towards G."""
    decay = optim.ema_decay(self.spec, images)

    def mix(old: Array, new: Array) -> Array:
      keep = decay.astype(old.dtype)
      return keep * old + (1 - keep) * new

    with jax.named_scope("ema"):
      ema = jax.tree.map(mix, state.ema, average_of(state.g))
    return state._replace(ema=ema), {
      "ema/decay": decay,
      "ema/distance": probes.distance(ema.params, state.g.params),
    }

  def _codes(self, key: Array, real_labels: Array) -> Codes:
    codes = draw_codes(key, self.spec, real_labels, self.spec.global_batch_size)
    return self._placement.by_sample(codes)

  def _fakes(
    self, g: Player, codes: Codes, prepared: PreparedUpdate | None
  ) -> tuple[Array, Player]:
    """Images [K, B, H, W, C] of codes [K, B, ...]; G, its statistics moved.

    Args:
      g: before.
      codes: of K updates of D.
      prepared: as `prepared_g` of `update_d`.
    """
    if prepared is None:
      ready, spectra, _ = self._ready_g(g.params, g.spectra)
      g = g._replace(spectra=spectra)
    else:
      ready, _, _ = prepared
    with jax.named_scope("d_update"):
      images, stats = self._draw(ready, g.batch_stats, codes)
    return images, g._replace(batch_stats=stats)

  def _samples(
    self,
    key: Array | None,
    reals: Reals,
    codes: Codes,
    uses: tuple[int, ...],
    fakes: Array | None = None,
  ) -> PyTree:
    samples = self._objective.samples(key, reals, codes, uses)
    return self._placement.by_sample(samples._replace(fakes=fakes))

  def _weight_penalty(
    self, g: Player, ready: Ready, spectra: spectral.Spectra
  ) -> tuple[PyTree | None, Scalars]:
    """Gradients of the penalties on G's weights, None without; their values.

    Args:
      g: before this update.
      ready: its weights in this update.
      spectra: after this update.
    """
    if not self._weight_terms:
      return None, {}
    whole = self._ready_g.seen_whole(ready, spectra)

    def penalty(params: PyTree) -> tuple[Array, Scalars]:
      weights = Weights(params, g.spectra, whole, self.model.g.orthogonal)
      scalars, total = {}, jnp.zeros(())
      for term in self._weight_terms:
        scalars[term.scalar] = term.value(weights)
        total = total + term.weight * scalars[term.scalar]
      return total, scalars

    return jax.grad(penalty, has_aux=True)(g.params)

  def _close(self, state: GanState) -> GanState:
    """What ends a step: counters, and spectra that no forward pass moves."""
    state = state._replace(
      step=state.step + 1,
      augment=augmentation.adjust(self.spec, state.augment, state.step + 1),
    )

    def tracked(player: Player, network: object) -> Player:
      return tracking.tracked(
        player, network, state.step, self.spec, self._iteration
      )

    return state._replace(
      g=tracked(state.g, self.model.g), d=tracked(state.d, self.model.d)
    )

  def _clamped(self, g: Player, bounds: dict[str, Array]) -> Player:
    """G with its spectra below the spec's bound and those of the dials."""
    fixed = self.spec.loss.g_sigma.clamp
    if not (fixed or self.spec.clamps_sigma):
      return g
    if fixed:
      bounds = {path: jnp.minimum(b, fixed) for path, b in bounds.items()}
    clamped = spectral.clamp(
      g.params, g.spectra, bounds, tracking.epsilon(self.spec)
    )
    return g._replace(params=clamped)

  def _adam_step(
    self, player: Player, gradients: PyTree, lr: Array, images: Array
  ) -> tuple[Player, Scalars]:
    """The player after Adam, and what `probes.movement` says of it."""
    beta2 = optim.value(self.spec.optim.beta2, images)
    transformation = optim.adam(self.spec.optim, lr, beta2)
    with jax.named_scope("adam"):
      updates, optimizer = transformation.update(
        gradients, player.optimizer, player.params
      )
      params = optax.apply_updates(player.params, updates)
    moved = player._replace(params=params, optimizer=optimizer)
    return moved, probes.movement(gradients, updates, params)


def generate(
  model: GanModel,
  spec: RunSpec,
  ema: Average,
  codes: Codes,
  placement: Placement | None = None,
) -> Array:
  """Images [B, H, W, C] in about [-1, 1] from the average, as for a user.

  One step of the power iteration is applied and forgotten, as the authors'
  code does in evaluation.

  Args:
    model: of the run.
    spec: of the run.
    ema: the average.
    codes: B of them.
    placement: of the average; None is one device.
  """
  params, _ = tracking.normalized(ema.params, ema.spectra, model.g, spec)
  if placement:
    # Left to itself XLA may split the convolutions' channels instead.
    params = placement.whole(params)
    if len(codes.labels) % placement.devices == 0:
      codes = placement.by_sample(codes)
  variables = {"params": params, "batch_stats": ema.batch_stats}
  images, _ = model.g.apply(variables, codes.latents, codes.labels, train=False)
  return images


def _one_more_axis(x: Array) -> Array:
  return x[None]


def _one_device() -> Mesh:
  return make_mesh(MeshSpec(), jax.devices()[:1])
