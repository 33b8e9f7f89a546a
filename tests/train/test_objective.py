"""Each choice of loss, penalty and intervention affects the step.

Each network has one matrix, so that a step compiles in a second and the test
can compute the expected result.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.ops import spectral
from bigscale.spec import AugmentSpec, LossSpec, SigmaSpec, from_config
from bigscale.train.state import init_state
from bigscale.train.step import Codes, GanStep, Reals
from bigscale.types import Batch, GanModel, Network

BATCH, SIDE, LATENT = 8, 4, 5
PIXELS = SIDE * SIDE
START = np.zeros((), "f4")


def run_spec(loss, augment=None, spectra_interval=0, **others):
  spec = from_config(
    {
      "global_batch_size": BATCH,
      "total_kimg": 1.0,
      "model": {
        "name": "r3gan",
        "resolution": SIDE,
        "image_channels": 1,
        "latent_dim": LATENT,
        "widths": (4,),
        "blocks": (1,),
        "cardinality": (1,),
        "num_singular_values": 2,
        "spectra_interval": spectra_interval,
      },
      "data": {"source": "emoji"},
      "loss": {"adversarial": "rpgan"},
      "optim": {"g_lr": 1e-2, "d_lr": 1e-2, **others},
    }
  )
  return dataclasses.replace(
    spec, loss=LossSpec(**loss), augment=augment or AugmentSpec()
  )


def linear_model(level=0.0) -> GanModel:
  """G(z) = z W, D(x) = sum(tanh(x V)) + level; D's gradient depends on x."""

  def init(shape):
    def make(key):
      kernel = jax.random.normal(key, shape) / 3
      return {"params": {"map": {"kernel": kernel}}, "batch_stats": {}}

    return make

  def apply_g(variables, latents, labels, *, train):
    flat = latents @ variables["params"]["map"]["kernel"]
    return flat.reshape(-1, SIDE, SIDE, 1), {}

  def apply_d(variables, images, labels):
    flat = images.reshape(-1, PIXELS) @ variables["params"]["map"]["kernel"]
    return jnp.sum(jnp.tanh(flat), axis=1) + level

  def network(shape, apply):
    return Network(
      init(shape), apply, lambda path: False, lambda path: True,
      lambda path: True,
    )  # fmt: skip

  return GanModel(
    network((LATENT, PIXELS), apply_g), network((PIXELS, 3), apply_d)
  )


class Recorder(GanStep):
  """Records gradients instead of their norms."""

  def _adam_step(self, player, gradients, lr, images):
    player, _ = super()._adam_step(player, gradients, lr, images)
    return player, {"grad_norm": gradients}


def inputs():
  keys = jax.random.split(jax.random.key(3), 2)
  labels = jnp.zeros(BATCH, jnp.int32)
  images = jax.random.uniform(keys[0], (BATCH, SIDE, SIDE, 1), minval=-1)
  latents = jax.random.normal(keys[1], (BATCH, LATENT))
  return Reals(images, labels), Codes(latents, labels)


def d_update(loss, step=0, **others):
  """Returns the gradient of D, the scalars and the new state of an update."""
  spec = run_spec(loss, **others)
  model = linear_model()
  state = init_state(model, spec)._replace(step=jnp.asarray(step, jnp.int32))
  update = jax.jit(Recorder(model, spec).update_d)
  reals, codes = inputs()
  after, scalars = update(state, reals, codes, START, jax.random.key(5))
  gradient = scalars.pop("d/grad_norm")["map"]["kernel"]
  return np.asarray(gradient), scalars, state, after


def logits(kernel, images):
  flat = images.reshape(-1, PIXELS) @ kernel
  return jnp.sum(jnp.tanh(flat), axis=1)


def expected_d_gradient(state, formula, r1=0.0, r2=0.0):
  """Gradient of mean formula(real, fake) + r1/2 R1 + r2/2 R2."""
  reals, codes = inputs()
  fakes = (codes.latents @ state.g.params["map"]["kernel"]).reshape(
    reals.images.shape
  )

  def square(kernel, images):
    gradient = jax.grad(lambda x: jnp.sum(logits(kernel, x)))(images)
    return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))

  def objective(kernel):
    real, fake = logits(kernel, reals.images), logits(kernel, fakes)
    value = jnp.mean(formula(real, fake))
    value += r1 / 2 * square(kernel, reals.images)
    return value + r2 / 2 * square(kernel, fakes)

  gradient = jax.jit(jax.grad(objective))
  return np.asarray(gradient(state.d.params["map"]["kernel"]))


softplus = jax.nn.softplus
D_FORMULAS = {
  "rpgan": lambda real, fake: softplus(fake - real),
  "hinge": lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
  "non_saturating": lambda real, fake: softplus(-real) + softplus(fake),
  "minimax": lambda real, fake: softplus(-real) + softplus(fake),
  "least_squares": lambda real, fake: ((real - 1) ** 2 + fake**2) / 2,
  "wasserstein": lambda real, fake: fake - real,
}
G_FORMULAS = {
  "rpgan": lambda real, fake: softplus(real - fake),
  "hinge": lambda real, fake: -fake,
  "non_saturating": lambda real, fake: softplus(-fake),
  "minimax": lambda real, fake: -softplus(fake),
  "least_squares": lambda real, fake: (fake - 1) ** 2 / 2,
  "wasserstein": lambda real, fake: -fake,
}


@pytest.mark.parametrize("name", D_FORMULAS)
def test_each_loss_affects_both_players(name):
  gradient, scalars, state, _ = d_update({"adversarial": name})
  wanted = expected_d_gradient(state, D_FORMULAS[name])
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
  assert ("d/loss_real" in scalars) == (name != "rpgan")

  spec, model = run_spec({"adversarial": name}), linear_model()
  reals, codes = inputs()
  update = jax.jit(Recorder(model, spec).update_g)
  _, g_scalars = update(state, reals, codes, START)
  kernel = state.d.params["map"]["kernel"]

  def objective(weights):
    fakes = (codes.latents @ weights).reshape(reals.images.shape)
    real, fake = logits(kernel, reals.images), logits(kernel, fakes)
    return jnp.mean(G_FORMULAS[name](real, fake))

  wanted = jax.jit(jax.grad(objective))(state.g.params["map"]["kernel"])
  np.testing.assert_allclose(
    g_scalars["g/grad_norm"]["map"]["kernel"], wanted, rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize(("r1", "r2"), [(0.7, 0.7), (0.7, 0.0), (0.0, 0.4)])
def test_penalties_alone_and_together(r1, r2):
  gradient, scalars, state, _ = d_update(
    from_loss(adversarial="rpgan", r1_gamma=r1, r2_gamma=r2)
  )
  wanted = expected_d_gradient(state, D_FORMULAS["rpgan"], r1, r2)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
  assert (float(scalars["d/r1"]) > 0) == (r1 > 0)
  assert (float(scalars["d/r2"]) > 0) == (r2 > 0)


def from_loss(**fields):
  """Converts numbers to constant schedules, as configs do."""
  spec = from_config(
    {
      "global_batch_size": 8,
      "total_kimg": 1.0,
      "model": dataclasses.asdict(run_spec({"adversarial": "rpgan"}).model),
      "data": {"source": "emoji"},
      "loss": fields,
      "optim": {"g_lr": 1.0, "d_lr": 1.0},
    }
  )
  return {
    field.name: getattr(spec.loss, field.name)
    for field in dataclasses.fields(spec.loss)
  }


@pytest.mark.parametrize(("step", "due"), [(0, True), (3, False), (4, True)])
def test_lazy_penalties_are_multiplied_by_the_interval(step, due):
  loss = from_loss(adversarial="hinge", r1_gamma=0.5, penalty_interval=4)
  gradient, scalars, state, _ = d_update(loss, step=step)
  r1 = 4 * 0.5 if due else 0.0
  wanted = expected_d_gradient(state, D_FORMULAS["hinge"], r1)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
  assert (float(scalars["d/r1"]) > 0) == due


def test_gradient_penalty_and_clip():
  loss = {"adversarial": "wasserstein", "gradient_penalty": 10.0}
  gradient, scalars, state, _ = d_update(loss)
  plain = expected_d_gradient(state, D_FORMULAS["wasserstein"])
  assert np.max(np.abs(gradient - plain)) > 0.1
  assert float(scalars["d/gradient_penalty"]) > 0

  loss = {"adversarial": "wasserstein", "weight_clip": 0.05}
  *_, state, after = d_update(loss)
  assert np.max(np.abs(state.d.params["map"]["kernel"])) > 0.3
  assert np.max(np.abs(after.d.params["map"]["kernel"])) <= 0.05


def g_update(loss, spectra_interval=1):
  spec = run_spec(loss, spectra_interval=spectra_interval)
  model = linear_model()
  state = init_state(model, spec)
  spectra = state.g.spectra
  for _ in range(60):
    spectra = spectral.track(state.g.params, spectra, 1e-12)
  state = state._replace(g=state.g._replace(spectra=spectra))
  reals, codes = inputs()
  after, scalars = jax.jit(Recorder(model, spec).update_g)(
    state, reals, codes, START
  )
  return state, after, scalars


def singular_values(player):
  return np.linalg.svd(np.asarray(player.params["map"]["kernel"]))[1]


def test_sigma_clamp_only_bounds_g():
  state, after, _ = g_update(
    {"adversarial": "hinge", "g_sigma": SigmaSpec(clamp=1.0)}
  )
  before = singular_values(state.g)
  assert before[0] > 1.3
  # Adam has changed the weights by 0.01 since the power iteration.
  assert singular_values(after.g)[0] < max(1.0, before[1]) + 0.1
  np.testing.assert_array_equal(
    state.d.params["map"]["kernel"], after.d.params["map"]["kernel"]
  )


def test_sigma_penalty_pulls_the_first_towards_the_second():
  loss = {"adversarial": "hinge", "g_sigma": SigmaSpec(strength=10.0)}
  state, _, scalars = g_update(loss)
  first, second, *_ = singular_values(state.g)
  np.testing.assert_allclose(
    scalars["g/sigma_penalty"], (first - second) ** 2, rtol=1e-3
  )
  _, _, plain = g_update({"adversarial": "hinge"})
  pull = (
    scalars["g/grad_norm"]["map"]["kernel"]
    - plain["g/grad_norm"]["map"]["kernel"]
  )
  u, _, v = np.linalg.svd(np.asarray(state.g.params["map"]["kernel"]))
  wanted = 20.0 * (first - second) * np.outer(u[:, 0], v[0])
  np.testing.assert_allclose(pull, wanted, rtol=1e-2, atol=1e-2)


def test_orthogonal_penalties_affect_g():
  rows = {}
  for form in ("off_diagonal", "full"):
    loss = {
      "adversarial": "hinge",
      "orthogonal": 1.0,
      "orthogonal_form": form,
    }
    state, _, scalars = g_update(loss)
    weights = np.asarray(state.g.params["map"]["kernel"], np.float64)
    gram = weights.T @ weights
    target = np.diag(np.diag(gram)) if form == "off_diagonal" else np.eye(16)
    rows[form] = float(scalars["g/ortho"])
    np.testing.assert_allclose(
      rows[form], np.sum((gram - target) ** 2), rtol=1e-4
    )
  assert rows["off_diagonal"] < rows["full"]


def whole_steps(spec, count, level=0.0):
  """Returns the state after each of `count` steps, and the scalars."""
  model = linear_model(level)
  state, step = init_state(model, spec), jax.jit(GanStep(model, spec))
  rng = np.random.default_rng(0)
  shape = (spec.batches_per_step, BATCH, SIDE, SIDE, 1)
  states, rows = [state], []
  for _ in range(count):
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    batch = Batch(images, np.zeros(shape[:2], np.int32))
    state, scalars = step(state, batch)
    states.append(state)
    rows.append(scalars)
  return states, rows


def test_spectra_without_norm_advance_at_their_interval():
  spec = run_spec({"adversarial": "hinge"}, spectra_interval=3)
  states, rows = whole_steps(spec, 6)
  values = [np.asarray(s.d.spectra["map/kernel"].sigma) for s in states]
  moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(values)]
  assert moved == [False, False, True, False, False, True]
  assert {"g/sigma0/map", "d/sigma1/map"} <= set(rows[0])
  spec = run_spec({"adversarial": "hinge"}, spectra_interval=0)
  _, rows = whole_steps(spec, 1)
  assert not any("sigma" in name for name in rows[0])


def test_adaptive_probability_follows_the_sign_of_d_on_reals():
  adaptive = AugmentSpec(
    pipe="diffaugment",
    probability=from_config_schedule(0.5),
    target=0.6,
    target_interval=2,
    target_kimg=0.16,
  )
  spec = run_spec({"adversarial": "hinge"}, augment=adaptive, d_steps=2)
  states, rows = whole_steps(spec, 6)
  used = [float(row["aug/p"]) for row in rows]
  p = 0.5
  for i in range(6):
    assert used[i] == pytest.approx(p)
    if i % 2:
      sign = np.mean([rows[i - 1]["d/sign_real"], rows[i]["d/sign_real"]])
      # 2 steps of 2 x 8 images are a fifth of 160.
      p = np.clip(p + 0.2 * np.sign(sign - 0.6), 0, 1)
  assert float(states[-1].augment.probability) == pytest.approx(p)
  assert p != 0.5


def test_a_free_level_of_a_paired_loss_has_no_effect():
  """It affects neither the adaptive probability nor the logged sign."""
  adaptive = AugmentSpec(
    pipe="diffaugment",
    probability=from_config_schedule(0.5),
    target=0.6,
    target_interval=1,
    target_kimg=0.16,
  )

  def course(adversarial, level):
    spec = run_spec({"adversarial": adversarial}, augment=adaptive)
    _, rows = whole_steps(spec, 4, level)
    names = ("aug/p", "d/sign_real")
    return np.array([[float(row[name]) for name in names] for row in rows])

  plain = course("rpgan", 0.0)
  assert len(set(plain[:, 0])) > 1
  np.testing.assert_array_equal(course("rpgan", 8.0), plain)
  # With other losses, the level matters.
  assert np.all(course("hinge", 8.0)[:, 1] == 1)


@pytest.mark.parametrize("parts", [1, 2])
def test_signs_compare_the_pairs_of_the_loss(parts):
  """The i-th real is compared with the i-th fake, also in microbatches."""
  _, scalars, state, _ = d_update({"adversarial": "rpgan"}, microbatches=parts)
  reals, codes = inputs()
  fakes = codes.latents @ state.g.params["map"]["kernel"]
  kernel = state.d.params["map"]["kernel"]
  real, fake = logits(kernel, reals.images), logits(kernel, fakes)
  wanted = np.mean(np.sign(real - fake))
  assert float(scalars["d/sign_real"]) == pytest.approx(wanted)
  rolled = np.mean(np.sign(real - np.roll(fake, 1)))
  assert abs(rolled - wanted) > 0.1


def from_config_schedule(value):
  return dataclasses.replace(AugmentSpec().probability, first=value, last=value)


def test_augmentation_changes_the_inputs_of_d_unless_it_is_zero():
  loss = {"adversarial": "rpgan"}
  reference, *_ = d_update(loss)
  off, *_ = d_update(
    loss,
    augment=AugmentSpec(
      pipe="diffaugment", probability=from_config_schedule(0.0)
    ),
  )
  np.testing.assert_array_equal(reference, off)
  on, *_ = d_update(loss, augment=AugmentSpec(pipe="diffaugment"))
  assert np.max(np.abs(on - reference)) > 1e-3
