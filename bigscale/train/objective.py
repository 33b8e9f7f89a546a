"""The losses of G and D as pure functions of weights and samples.

They process one device's share of a microbatch and return means over it. Random
numbers are passed with the samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.losses import adversarial
from bigscale.ops import augment as augments
from bigscale.ops.augment import draws
from bigscale.ops.images import to_float
from bigscale.sampling import latents as sampling
from bigscale.spec import RunSpec, TermSpec, require
from bigscale.train import augmentation, optim
from bigscale.train.discriminator_pass import (
  BOTH,
  FAKE,
  FIRST_TERM,
  REAL,
  DiscriminatorFor,
  DOutputs,
  Fakes,
  Reals,
  logits_and_penalties,
)
from bigscale.train.state import GanState
from bigscale.types import Array, GanModel, PyTree

Scalars = dict[str, Array]

# Values folded into the key of an update, by use.
_LATENTS, _LABELS, _AUGMENT, _TERM = range(4)


class Codes(NamedTuple):
  """G's inputs: latents [B, latent_dim] and labels [B] int32."""

  latents: Array
  labels: Array


class Samples(NamedTuple):
  """The B samples of an update.

  Attributes:
    reals: real images and labels.
    codes: latents and labels of B fakes.
    draws: by use of D, uniform random numbers [B, passes, n] for augmentation.
    term_draws: by use of D, uniform random numbers [B, *draws] for a `DTerm`.
    fakes: [B, H, W, C] generated images for an update of D; None for an update
      of G, which generates them itself.
  """

  reals: Reals
  codes: Codes
  draws: dict[int, Array]
  term_draws: dict[int, Array]
  fakes: Array | None = None


class Shared(NamedTuple):
  """Values that are the same for all samples of an update.

  Attributes:
    probability: [] probability of each augmentation.
    r1_gamma: [] weight of R1.
    r2_gamma: [] weight of R2.
    due: [] bool, whether R1 and R2 are due; None means always.
    term_weights: by use of D, [] weight of each term with a varying weight.
    term_due: by use of D, [] bool for each term that is not always due.
  """

  probability: Array
  r1_gamma: Array
  r2_gamma: Array
  due: Array | None
  term_weights: dict[int, Array]
  term_due: dict[int, Array]


class Objective:
  """The losses of one model under one spec."""

  def __init__(
    self, model: GanModel, spec: RunSpec, branches: bool = True
  ) -> None:
    """Initializes the losses.

    Args:
      model: generator and discriminator.
      spec: spec of the run.
      branches: whether a network may run inside a branch of `lax.cond`. If not,
        lazy penalties are computed in every step and discarded in most.
    """
    self._branches = branches
    self._model = model
    self._spec = spec
    loss = spec.loss
    self._adversarial = adversarial.make(loss.adversarial, loss.label_smoothing)
    self._augment = augments.make(spec.augment.pipe, spec.augment.chosen)
    symmetric = loss.r1_gamma.ever_positive == loss.r2_gamma.ever_positive
    self._terms = dict(enumerate(loss.d_terms, FIRST_TERM))
    self.d_uses = ((BOTH,) if symmetric else (REAL, FAKE)) + (*self._terms,)
    self.g_uses = (FAKE, REAL) if loss.paired else (FAKE,)

  def samples(
    self,
    key: Array | None,
    reals: Reals,
    codes: Codes,
    uses: tuple[int, ...],
  ) -> Samples:
    """Draws the random numbers of augmentation and loss terms.

    Args:
      key: key of the update; None if no random numbers are needed.
      reals: B real images and labels.
      codes: B latents and labels.
      uses: uses of D in this update.
    """
    count = len(reals.labels)
    drawn: dict[int, Array] = {}
    if self._augment.count:
      augment_key = jax.random.fold_in(key, _AUGMENT)
      for use in uses:
        passes = 2 if use == BOTH else 1
        flat = draws.uniform(
          jax.random.fold_in(augment_key, use),
          passes * count,
          self._augment.count,
        )
        drawn[use] = flat.reshape(count, passes, -1)
    dtype = jnp.dtype(self._spec.model.dtype)
    term_draws = {
      use: jax.random.uniform(
        jax.random.fold_in(key, _TERM + use - FIRST_TERM),
        (count, *term.row.draws),
        dtype,
      )
      for use, term in self._terms.items()
      if use in uses and term.row.draws is not None
    }
    return Samples(reals, codes, drawn, term_draws)

  def shared(self, state: GanState, images: Array) -> Shared:
    """Returns the scheduled values after `images` images, times the dials."""
    loss = self._spec.loss
    interval = loss.penalty_interval
    return Shared(
      augmentation.probability(self._spec, state.augment, images),
      optim.value(loss.r1_gamma, images) * state.dials.r1_gamma,
      optim.value(loss.r2_gamma, images) * state.dials.r2_gamma,
      state.step % interval == 0 if interval > 1 else None,
      {
        use: optim.value(term.weight, images)
        for use, term in self._terms.items()
        if term.weight.first != term.weight.last
      },
      {
        use: state.step % term.interval == 0
        for use, term in self._terms.items()
        if term.interval > 1
      },
    )

  def d_loss(
    self,
    d_weights: PyTree,
    no_weights: PyTree,
    no_stats: PyTree,
    samples: Samples,
    shared: Shared,
  ) -> tuple[Array, tuple[PyTree, Scalars]]:
    """Returns D's loss [] with penalties, `no_stats`, and scalars []."""
    del no_weights
    loss = self._spec.loss
    fakes = Fakes(samples.fakes, samples.codes.labels)
    reals = self._reals(samples.reals)
    discriminator_for = self._discriminator_for(d_weights, samples, shared)
    outputs = logits_and_penalties(
      discriminator_for, reals, fakes, loss, shared.due, self._branches
    )
    scalars = self._d_scalars(outputs)
    # The loss is the sum; the scalars log each summand.
    r1 = shared.r1_gamma * jnp.mean(outputs.r1)
    r2 = shared.r2_gamma * jnp.mean(outputs.r2)
    # Lazy penalties are due once per interval, multiplied by the interval.
    penalty = loss.penalty_interval * (r1 + r2) / 2
    for use, term in self._terms.items():
      value = jnp.mean(
        self._term_values(
          term,
          lambda images, labels, use=use: discriminator_for(labels, use)(
            images
          ),
          (reals, fakes, samples.term_draws.get(use)),
          shared.term_due.get(use),
        )
      )
      scalars[term.row.scalar] = value
      weight = shared.term_weights.get(use, term.weight.last)
      penalty = penalty + term.interval * weight * value
    return scalars["d/loss"] + penalty, (no_stats, scalars)

  def g_loss(
    self,
    g_weights: PyTree,
    d_weights: PyTree,
    batch_stats: PyTree,
    samples: Samples,
    shared: Shared,
  ) -> tuple[Array, tuple[PyTree, Scalars]]:
    """Returns G's loss [], its new batch statistics and scalars []."""
    discriminator_for = self._discriminator_for(d_weights, samples, shared)
    drawn, batch_stats = self._model.g.apply(
      {"params": g_weights, "batch_stats": batch_stats},
      samples.codes.latents,
      samples.codes.labels,
      train=True,
    )
    fake = discriminator_for(samples.codes.labels, FAKE)(drawn)
    real = None
    if self._spec.loss.paired:
      reals = self._reals(samples.reals)
      real = discriminator_for(reals.labels, REAL)(reals.images)
    loss = jnp.mean(self._adversarial.g(real, fake))
    return loss, (lax.stop_gradient(batch_stats), {"g/loss": loss})

  def _reals(self, reals: Reals) -> Reals:
    """Converts uint8 images to floats of the model's dtype."""
    images = reals.images
    if images.dtype == jnp.uint8:
      images = to_float(images, jnp.dtype(self._spec.model.dtype))
    return Reals(images, reals.labels)

  def _term_values(
    self,
    term: TermSpec,
    discriminator: Callable[[Array, Array], Array],
    samples: tuple[Reals, Fakes, Array | None],
    due: Array | None,
  ) -> Array:
    """Returns the values [B] of a term, or zeros if it is not due.

    Raises:
      SpecError: if the term does not return one value per sample.
    """

    def computed() -> Array:
      values = term.row.values(discriminator, *samples)
      count, shape = len(samples[0].labels), getattr(values, "shape", None)
      require(
        shape == (count,),
        f"the term {term.name!r} of loss.terms returned shape {shape} for "
        f"{count} samples; it must return one value per sample, without a mean",
      )
      return adversarial.at_least_float32(values)

    if due is None:
      return computed()
    if not self._branches:
      return jnp.where(due, computed(), 0)
    like = jax.eval_shape(computed)
    return lax.cond(due, computed, lambda: jnp.zeros(like.shape, like.dtype))

  def _discriminator_for(
    self, weights: PyTree, samples: Samples, shared: Shared
  ) -> DiscriminatorFor:
    """Returns D applied to augmented images."""
    variables = {"params": weights, "batch_stats": {}}

    def of_images(labels: Array, use: int) -> Callable[[Array], Array]:
      def discriminator(x: Array) -> Array:
        if samples.draws:
          drawn = samples.draws[use]
          u_bn = drawn.reshape(-1, drawn.shape[-1])
          with jax.named_scope("augment"):
            x = self._augment.apply(u_bn, x, shared.probability)
        return self._model.d.apply(variables, x, labels)

      return discriminator

    return of_images

  def _d_scalars(self, outputs: DOutputs) -> Scalars:
    """Returns the logged means over the samples."""
    real, fake, r1, r2 = outputs
    loss = self._adversarial.d(real, fake)
    scalars = {
      "d/loss": loss.total,
      "d/logit_real": real,
      "d/logit_fake": fake,
      "d/sign_real": self._adversarial.sign(real, fake),
      "d/r1": r1,
      "d/r2": r2,
    }
    if loss.real is not None:
      scalars |= {"d/loss_real": loss.real, "d/loss_fake": loss.fake}
    return {name: jnp.mean(values) for name, values in scalars.items()}


def draw_codes(
  key: Array, spec: RunSpec, real_labels: Array, count: int
) -> Codes:
  """Draws latents and labels of fakes.

  Paired losses and empirical labels use the labels of the reals.

  Args:
    key: random key.
    spec: spec of the run.
    real_labels: [count] int32 labels of the reals.
    count: number of fakes.
  """
  model = spec.model
  latents = sampling.normal(
    jax.random.fold_in(key, _LATENTS), count, model.latent_dim, model.dtype
  )
  if spec.loss.paired or spec.data.fake_labels == "empirical":
    return Codes(latents, real_labels)
  labels = sampling.uniform_labels(
    jax.random.fold_in(key, _LABELS), count, model.num_classes
  )
  return Codes(latents, labels)
