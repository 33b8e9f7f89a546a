"""The losses of both players on some samples, given weights: pure functions.

They see one device's part of one microbatch and return means over it. All that
is random about a sample comes with it.
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

# What an update's key is folded with, by use.
_LATENTS, _LABELS, _AUGMENT, _TERM = range(4)


class Codes(NamedTuple):
  """What G is asked for: latents [B, latent_dim] and labels [B] int32."""

  latents: Array
  labels: Array


class Samples(NamedTuple):
  """All that an update knows of its samples, B of them.

  Attributes:
    reals: images and labels.
    codes: of as many fakes.
    draws: by use of D, uniform numbers [B, passes, n] of its augmentation.
    term_draws: by use of D, uniform numbers [B, *draws] of a `DTerm`.
    fakes: [B, H, W, C] of these codes, for D; None for G, which draws its own.
  """

  reals: Reals
  codes: Codes
  draws: dict[int, Array]
  term_draws: dict[int, Array]
  fakes: Array | None = None


class Shared(NamedTuple):
  """What all samples of an update see.

  Attributes:
    probability: [] of the augmentation.
    r1_gamma: [].
    r2_gamma: [].
    due: [] bool, whether R1 and R2 are; None means always.
    term_weights: [] by use of D, of the terms whose weight varies.
    term_due: [] bool by use, of the terms that are not always due.
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
    """Takes what the spec says of losses.

    Args:
      model: both networks.
      spec: of the run.
      branches: whether a network may run in one branch of a program; where
        not, lazy penalties are computed in every step and left out of most.
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
    """Draws what is random about samples besides their codes.

    Args:
      key: of the update; None where nothing is to be drawn.
      reals: B of them.
      codes: B of them.
      uses: of D in this update.
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
    """The schedules' values after so many images, and what turned them."""
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
    """[] of D with its penalties; {}, as G was before; scalars []."""
    del no_weights
    loss = self._spec.loss
    fakes = Fakes(samples.fakes, samples.codes.labels)
    reals = self._reals(samples.reals)
    discriminator_for = self._discriminator_for(d_weights, samples, shared)
    outputs = logits_and_penalties(
      discriminator_for, reals, fakes, loss, shared.due, self._branches
    )
    scalars = self._d_scalars(outputs)
    # Adversarial terms and penalties apart in the logs, together here.
    r1 = shared.r1_gamma * jnp.mean(outputs.r1)
    r2 = shared.r2_gamma * jnp.mean(outputs.r2)
    # Lazy penalties: once an interval and as much heavier.
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
    """[] of G; its statistics, moved; scalars []."""
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
    """uint8 to floats of the model's dtype."""
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
    """[B] of a term, 0 where it is not due; None means always.

    Raises:
      SpecError: the term does not give one value a sample.
    """

    def computed() -> Array:
      values = term.row.values(discriminator, *samples)
      count, shape = len(samples[0].labels), getattr(values, "shape", None)
      require(
        shape == (count,),
        f"the term {term.name!r} of loss.terms gives shape {shape} for {count} "
        "samples; let it give one value a sample, without a mean",
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
    """D behind the augmentation."""
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
    """Means over the samples, without penalties."""
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
  """Of `count` fakes. A paired loss has each of the class of its real.

  Args:
    key: of this use.
    spec: of the run.
    real_labels: [count] int32.
    count: of fakes.
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
