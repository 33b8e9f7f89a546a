"""A step runs its updates one after the other, each on its own batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.train import optim
from bigscale.train.objective import draw_codes
from bigscale.train.state import init_state, step_key
from bigscale.train.step import _D, _G, GanStep, Reals
from bigscale.types import Batch, GanModel
from tests.train.test_objective import BATCH, SIDE, linear_model, run_spec

D_STEPS, CLASSES = 2, 3


def labelled_model() -> GanModel:
  """Returns `linear_model` with networks that use labels."""
  plain = linear_model()

  def apply_g(variables, latents, labels, *, train):
    images, stats = plain.g.apply(variables, latents, labels, train=train)
    return images / (1 + labels[:, None, None, None]), stats

  def apply_d(variables, images, labels):
    return (1 + labels) * plain.d.apply(variables, images, labels)

  return GanModel(
    plain.g._replace(apply=apply_g), plain.d._replace(apply=apply_d)
  )


def spec_of(loss):
  spec = run_spec({"adversarial": loss}, d_steps=D_STEPS, ema_decay=0.5)
  model = dataclasses.replace(spec.model, num_classes=CLASSES)
  return dataclasses.replace(spec, model=model)


def by_hand(step, spec, state, batch):
  """Computes the step from the updates that `test_objective` verifies."""
  key, images = step_key(state), optim.images_seen(spec, state.step)
  d_key, g_key = jax.random.fold_in(key, _D), jax.random.fold_in(key, _G)
  losses = []
  for i in range(D_STEPS):
    reals = Reals(batch.images[i], batch.labels[i])
    key = jax.random.fold_in(d_key, i)
    codes = draw_codes(key, spec, reals.labels, BATCH)
    state, scalars = step.update_d(state, reals, codes, images, key)
    losses.append(scalars["d/loss"])
  reals = Reals(batch.images[-1], batch.labels[-1])
  codes = draw_codes(g_key, spec, reals.labels, BATCH)
  state, scalars = step.update_g(state, reals, codes, images, g_key)
  # The average follows G after this step.
  average = jax.tree.map(
    lambda old, new: (old + new) / 2, state.ema.params, state.g.params
  )
  return state, average, jnp.mean(jnp.stack(losses)), scalars["g/loss"]


def test_a_step_does_its_updates_in_order():
  # Fakes have labels that differ from those of the reals.
  spec, model = spec_of("hinge"), labelled_model()
  step = GanStep(model, spec)
  state = init_state(model, spec)._replace(step=jnp.int32(3))
  rng = np.random.default_rng(0)
  shape = (spec.batches_per_step, BATCH)
  batch = Batch(
    rng.integers(0, 256, (*shape, SIDE, SIDE, 1), np.uint8),
    rng.integers(0, CLASSES, shape, np.int32),
  )
  after, scalars = jax.jit(step)(state, batch)
  wanted, average, d_loss, g_loss = jax.jit(
    lambda state, batch: by_hand(step, spec, state, batch)
  )(state, batch)
  assert int(after.step) == 4

  def same(ours, theirs):
    for a, b in zip(
      jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

  same(scalars["d/loss"], d_loss)
  same(scalars["g/loss"], g_loss)
  same((after.g.params, after.d.params), (wanted.g.params, wanted.d.params))
  same(after.ema.params, average)
