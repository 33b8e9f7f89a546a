"""The interventions of a rollback, and their effect on a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.spec import MonitorSpec
from bigscale.train import interventions
from bigscale.train.state import GanState, init_state
from bigscale.train.step import GanStep
from bigscale.types import Batch
from tests import fast_compile
from tests.train.test_objective import (
  BATCH,
  SIDE,
  from_loss,
  linear_model,
  run_spec,
)

LOSS = from_loss(adversarial="hinge", r1_gamma=0.5, r2_gamma=0.25)


def monitor(*names, **settings):
  return MonitorSpec(action="rollback", interventions=names, **settings)


def spec_with(loss=LOSS, watched=None, **others):
  spec = run_spec(loss, spectra_interval=1, **others)
  return dataclasses.replace(spec, monitor=watched or MonitorSpec())


@functools.cache
def first_state(seed=0) -> GanState:
  """Returns a state with a distinct average and step."""
  state = jax.jit(
    lambda: init_state(linear_model(), spec_with(), jnp.int32(seed))
  )()
  ema = jax.tree.map(lambda x: x * 2 + 1, state.ema)
  return state._replace(ema=ema, step=jnp.int32(10 + seed))


def make(*names, retry=1, older=None, state=None, **settings):
  state = first_state() if state is None else state
  return interventions.make(state, monitor(*names, **settings), retry, older)


def same(a, b):
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_without_interventions_nothing_changes():
  state, turned = make()
  assert same(state, first_state())
  assert turned == {}


@pytest.mark.parametrize(("retry", "factor"), [(1, 0.5), (3, 0.125)])
def test_lower_lr_changes_both_players(retry, factor):
  state, turned = make("lower_lr", retry=retry, lr_factor=0.5)
  assert turned == {"lr": factor}
  assert (state.dials.g_lr, state.dials.d_lr) == (factor, factor)
  # Nothing else changes.
  dials = first_state().dials._replace(g_lr=factor, d_lr=factor)
  assert same(state, first_state()._replace(dials=dials))


def test_a_later_factor_replaces_the_earlier_one():
  state, _ = make("lower_lr", retry=1)
  state, turned = make("lower_lr", retry=2, state=state)
  assert turned == {"lr": 0.25}
  assert state.dials.g_lr == 0.25


def test_raise_gamma_changes_both_penalties():
  state, turned = make("raise_gamma", retry=2, gamma_factor=3.0)
  assert turned == {"gamma": 9.0}
  assert (state.dials.r1_gamma, state.dials.r2_gamma) == (9, 9)
  dials = first_state().dials._replace(r1_gamma=9.0, r2_gamma=9.0)
  assert same(state, first_state()._replace(dials=dials))


def test_clamp_sigma_bounds_each_weight_by_its_own_sigma():
  state, turned = make("clamp_sigma", sigma_factor=1.5)
  assert turned == {"sigma_factor": 1.5}
  spectra = first_state().g.spectra
  assert state.dials.g_sigma_bound.keys() == spectra.keys()
  for path, bound in state.dials.g_sigma_bound.items():
    assert bound == pytest.approx(1.5 * float(spectra[path].sigma[0]))
  assert same(state.g, first_state().g)


def test_ema_to_g_restarts_g_from_copies_of_its_average():
  before = first_state()
  state, turned = make("ema_to_g")
  assert turned == {"g": "ema"}
  assert not same(before.g.params, before.ema.params)
  assert same(state.g.params, before.ema.params)
  assert same(state.g.spectra, before.ema.spectra)
  assert same(state.g.optimizer, before.g.optimizer)
  assert same(state.ema, before.ema)
  assert same(state.d, before.d)
  # A step donates the state, so no buffer may occur twice.
  buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.g)]
  average = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.ema)]
  assert not set(buffers) & set(average)


def test_older_d_replaces_the_whole_discriminator():
  older = first_state(seed=1)
  state, turned = make("older_d", older=older)
  assert turned == {"d": 11}
  assert same(state.d, older.d)
  assert not same(state.d.params, first_state().d.params)
  assert same(state._replace(d=None), first_state()._replace(d=None))


def test_older_d_without_an_older_state():
  state, turned = make("older_d")
  assert turned == {}
  assert same(state, first_state())


def test_all_interventions_together():
  names = ("lower_lr", "raise_gamma", "clamp_sigma", "ema_to_g", "older_d")
  state, turned = make(*names, older=first_state(seed=1))
  assert turned.keys() == {"lr", "gamma", "sigma_factor", "g", "d"}
  assert same(state.g.params, first_state().ema.params)
  shapes = [
    jax.tree.map(lambda x: (x.shape, x.dtype), s)
    for s in (state, first_state())
  ]
  assert shapes[0] == shapes[1]


def test_filled_keeps_shape_dtype_and_sharding():
  mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
  where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  like = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=where)
  got = interventions.filled(like, 3)
  assert got.dtype == jnp.int32
  assert got.sharding == where
  np.testing.assert_array_equal(got, [3, 3, 3, 3])


@functools.cache
def compiled(spec):
  step = jax.jit(GanStep(linear_model(), spec))
  lowered = step.lower(first_state(), batch_of(spec))
  return lowered.compile(fast_compile.OPTIONS)


def batch_of(spec):
  shape = (spec.batches_per_step, BATCH, SIDE, SIDE, 1)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  return Batch(images, np.zeros(shape[:2], np.int32))


def one_step(spec, state=None, **dials):
  state = first_state() if state is None else state
  turned = {name: jnp.float32(value) for name, value in dials.items()}
  state = state._replace(dials=state.dials._replace(**turned))
  return compiled(spec)(state, batch_of(spec))


@pytest.mark.parametrize(
  ("frozen", "other"), [("g_lr", "d"), ("d_lr", "g")], ids=["g", "d"]
)
def test_a_factor_of_0_freezes_one_player(frozen, other):
  before = first_state()
  after, scalars = one_step(spec_with(), **{frozen: 0})
  still = frozen[0]
  assert same(getattr(after, still).params, getattr(before, still).params)
  moved = getattr(after, other).params
  assert not same(moved, getattr(before, other).params)
  assert scalars[f"{still}/update_norm"] == 0
  assert scalars[f"{other}/update_norm"] > 0
  # Adam still updates its statistics of the gradients.
  assert scalars[f"{still}/grad_norm"] > 0


def test_dials_are_factors_and_1_changes_nothing():
  """Powers of two are exact, so results are bit-equal to those of the spec."""
  loss = from_loss(adversarial="hinge", r1_gamma=2.0, r2_gamma=0.125)
  other = spec_with(loss, g_lr=2e-2, d_lr=4e-2)
  dials = {"g_lr": 0.5, "d_lr": 0.25, "r1_gamma": 0.25, "r2_gamma": 2.0}
  turned, _ = one_step(other, **dials)
  plain, _ = one_step(spec_with())
  for name in ("g", "d", "ema"):
    assert same(getattr(turned, name), getattr(plain, name))
  for name in dials:
    # Each dial has an effect.
    partly, _ = one_step(other, **(dials | {name: 1}))
    assert not same((partly.g, partly.d), (plain.g, plain.d)), name


def test_gamma_changes_the_gradient_of_d():
  norms = [
    float(one_step(spec_with(), r1_gamma=gamma)[1]["d/grad_norm"])
    for gamma in (1, 8)
  ]
  assert norms[1] > 1.5 * norms[0]


def leading(state):
  return np.linalg.norm(np.asarray(state.g.params["map"]["kernel"]), 2)


def test_the_bound_limits_sigma0_of_g():
  watched = monitor("clamp_sigma")
  spec = spec_with(watched=watched)
  state = first_state()
  kernel = np.asarray(state.g.params["map"]["kernel"])
  _, values, vectors = np.linalg.svd(kernel)
  found = state.g.spectra["map/kernel"]._replace(
    u=jnp.asarray(vectors[:2]), sigma=jnp.asarray(values[:2])
  )
  g = state.g._replace(spectra={"map/kernel": found})
  state = state._replace(g=g)
  bounds, _ = interventions.make(state, watched, 1, None)
  bound = float(bounds.dials.g_sigma_bound["map/kernel"])
  assert bound == pytest.approx(leading(state), rel=1e-3)
  # Large steps let G's weights grow without a bound.
  free, held = state, bounds
  for _ in range(16):
    free, _ = one_step(spec, free, g_lr=5)
    held, _ = one_step(spec, held, g_lr=5)
  assert leading(free) > 1.12 * bound
  assert leading(held) < 1.05 * bound
  assert not same(held.g.params, state.g.params)


def test_the_initial_bound_has_no_effect():
  """The program with the clamp gives the same numbers as without it."""
  spec = spec_with(watched=monitor("clamp_sigma"))
  with_clamp, _ = one_step(spec, g_lr=5)
  without, _ = one_step(spec_with(), g_lr=5)
  np.testing.assert_allclose(
    with_clamp.g.params["map"]["kernel"],
    without.g.params["map"]["kernel"],
    rtol=1e-6,
  )
