"""A training step: D updates, G update, moving average, scalars.

All functions are pure. Random numbers depend on (seed, attempt, step, use) and
on a sample's index in the global batch, not on devices.

An update has two parts. Computations on weights only (`weights`: spectral norm;
here: Adam, weight penalties, the moving average) are written for global arrays,
and XLA partitions them by the state's shardings. Computations on samples
(`objective`) run on each device for its share of the batch, and gradients are
summed over devices once per update (`microbatches`).
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

# Values folded into the key of a step, for each network. The index of the D
# update and the use are folded in after them.
_D, _G = range(2)

# The penalties on G's weights.
_WEIGHT_TERMS = (orthogonal.term, sigma.term)

# The weights of an update, the spectra after it, and the function that maps
# gradients back to the parameters.
PreparedUpdate = tuple[Ready, spectral.Spectra, Pullback]


class GanStep:
  """The training step of a model."""

  def __init__(
    self, model: GanModel, spec: RunSpec, placement: Placement | None = None
  ) -> None:
    """Initializes the step without computing anything.

    Args:
      model: model built for the mesh of `placement`.
      spec: spec of the run.
      placement: placement of the run's arrays; None means one device.
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
    """Runs one step.

    Args:
      state: state before the step; deleted if it is donated to `jit`.
      batch: real images and labels, arrays [batches_per_step, B, ...].
      images: [] number of images before the step; None if all steps had this
        batch size.

    Returns:
      The state after the step and its scalars [].
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
      # G does not change until its own update.
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
    # Paired losses of G use the last batch of reals; other losses ignore it.
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
    """Runs one Adam step of D on B reals and B fakes.

    Args:
      state: state before the update.
      reals: B real images, uint8 or float in [-1, 1], and labels.
      codes: latents and labels of B fakes.
      images: [] number of images so far, the input of schedules.
      key: key of augmentation and interpolation; None if neither is used.
      prepared_g: G's prepared weights; if given, its spectra do not change.
      fakes: [B, H, W, C] G's images for `codes`; None generates them.

    Returns:
      The new state and the scalars [] of the update.
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
    more = norms | outcome.noise
    scalars = outcome.scalars | {f"d/{k}": x for k, x in more.items()}
    augment = augmentation.observe(state.augment, scalars["d/sign_real"])
    return state._replace(g=g, d=d, augment=augment), scalars

  def update_g(
    self,
    state: GanState,
    reals: Reals,
    codes: Codes,
    images: Array,
    key: Array | None = None,
    prepared_g: PreparedUpdate | None = None,
  ) -> tuple[GanState, Scalars]:
    """Runs one Adam step of G; see `update_d` for the arguments."""
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
    more = norms | outcome.noise
    scalars |= penalties | {f"g/{k}": x for k, x in more.items()}
    return state._replace(g=g, d=d), scalars

  def update_average(
    self, state: GanState, images: Array
  ) -> tuple[GanState, Scalars]:
    """Updates the moving average of G."""
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
    """Generates the fakes of K updates of D.

    Args:
      g: G before the updates.
      codes: latents and labels, arrays [K, B, ...].
      prepared: see `prepared_g` of `update_d`.

    Returns:
      Images [K, B, H, W, C] and G with new batch statistics.
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
    """Returns the gradients and values of the penalties on G's weights.

    The gradients are None without penalties.

    Args:
      g: G before this update.
      ready: G's prepared weights of this update.
      spectra: G's spectra after this update.
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
    """Updates counters, and the spectra of weights without spectral norm."""
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
    """Clamps G's spectral norms to the bounds of the spec and the dials."""
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
    """Returns the player after an Adam step, and `probes.movement`."""
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
  """Generates images [B, H, W, C] in about [-1, 1] with the moving average.

  As in the authors' evaluation code, this takes one step of the power iteration
  and discards its state.

  Args:
    model: generator and discriminator.
    spec: spec of the run.
    ema: moving average of G.
    codes: B latents and labels.
    placement: placement of the average; None means one device.
  """
  params, _ = tracking.normalized(ema.params, ema.spectra, model.g, spec)
  if placement:
    # Without these constraints, XLA may split the channels of convolutions.
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
