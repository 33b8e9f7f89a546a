"""A loss and a penalty outside the package, used when a config names them."""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses import adversarial
from bigscale.metrics.d_accuracy import d_accuracy
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import Placement, gather_shards
from bigscale.spec import (
  LossSpec,
  MeshSpec,
  Schedule,
  SpecError,
  TermSpec,
  from_config,
  to_json,
)
from bigscale.train.state import init_state
from bigscale.train.step import GanStep
from bigscale.types import Batch
from tests.train.test_objective import (
  BATCH,
  D_FORMULAS,
  SIDE,
  d_update,
  expected_d_gradient,
  linear_model,
  run_spec,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent))

ONE, TWO = MeshSpec(data=1, fsdp=1), MeshSpec(data=1, fsdp=2)


def constant(weight):
  return Schedule(first=weight, last=weight)


def labelled_model():
  """D(x, y) = sum(tanh(x V)) + 10 y, so logits contain the labels."""
  model = linear_model()

  def apply_d(variables, images, labels):
    return model.d.apply(variables, images, labels) + 10.0 * labels

  return model._replace(d=model.d._replace(apply=apply_d))


def whole(network):
  """Returns a network that gathers its weights when it runs, as for `fsdp`."""

  def apply(variables, *inputs, **how):
    gathered = {**variables, "params": gather_shards(variables["params"])}
    return network.apply(gathered, *inputs, **how)

  return network._replace(apply=apply)


def batch_of(spec):
  """Returns noise whose labels all differ between batches of a step."""
  rng = np.random.default_rng(0)
  shape = (spec.batches_per_step, BATCH)
  images = rng.integers(0, 256, (*shape, SIDE, SIDE, 1), dtype=np.uint8)
  labels = rng.integers(0, 100, shape, dtype=np.int32)
  return Batch(images, labels)


def train(spec, model, steps=2, mesh=ONE, weights="replicated"):
  """Returns all states, starting with the first, and the scalars per step."""
  devices = jax.devices()[: mesh.data * mesh.fsdp]
  placement = Placement(make_mesh(mesh, devices), weights)
  model = type(model)(*map(whole, model))
  shapes = jax.eval_shape(functools.partial(init_state, model, spec))
  shardings = placement.shardings(shapes)
  state = jax.jit(lambda: init_state(model, spec), out_shardings=shardings)()
  step = jax.jit(
    GanStep(model, spec, placement), out_shardings=(shardings, None)
  )
  states, rows = [state], []
  for _ in range(steps):
    state, scalars = step(state, batch_of(spec))
    states.append(state)
    rows.append({name: float(x) for name, x in scalars.items()})
  return states, rows


def labelled_spec(name, **others):
  spec = run_spec({"adversarial": name}, **others)
  return dataclasses.replace(
    spec, model=dataclasses.replace(spec.model, num_classes=100)
  )


def of_batch(state, spec, index):
  """Returns logits of reals without their labels' term, and that term."""
  images = batch_of(spec).images[index].reshape(BATCH, -1) / 127.5 - 1
  return np.tanh(images @ np.asarray(state.d.params["map"]["kernel"])).sum(1)


def test_a_paired_loss_gives_g_its_own_reals():
  spec = labelled_spec("toy_losses:PAIRS")
  assert spec.batches_per_step == 2
  model = labelled_model()

  def no_images(variables, latents, labels, *, train):
    flat = 0.0 * latents @ variables["params"]["map"]["kernel"]
    return flat.reshape(-1, SIDE, SIDE, 1), {}

  # The logit of a fake is that of its label.
  model = model._replace(g=model.g._replace(apply=no_images))
  states, rows = train(spec, model, mesh=TWO, weights="zero")
  for before, after, row in zip(states, states[1:], rows, strict=False):
    # Equal labels cancel; labels that are 10 apart would contribute a hundred.
    reals = of_batch(after, spec, 1)
    np.testing.assert_allclose(row["g/loss"], np.mean(reals**2), rtol=1e-4)
    reals = of_batch(before, spec, 0)
    wanted = np.mean((reals - 1) ** 2)
    np.testing.assert_allclose(row["d/loss"], wanted, rtol=1e-4)
    # Without a threshold, a real is compared with its fake.
    wanted = np.mean(np.sign(reals))
    np.testing.assert_allclose(row["d/sign_real"], wanted, atol=1e-6)
    assert "d/loss_real" not in row


def test_a_separable_loss_calls_its_functions():
  spec = run_spec({"adversarial": "toy_losses:WIDE_HINGE"})
  assert spec.batches_per_step == 1
  states, rows = train(spec, linear_model(), mesh=TWO)
  for before, row in zip(states, rows, strict=False):
    reals = of_batch(before, spec, 0)
    paid = np.mean(np.maximum(0, 2 - reals))
    np.testing.assert_allclose(row["d/loss_real"], paid, rtol=1e-4)
    assert row["d/loss"] == pytest.approx(
      row["d/loss_real"] + row["d/loss_fake"], rel=1e-5
    )
    # Around the loss's threshold, 0.5.
    wanted = np.mean(np.sign(reals - 0.5))
    assert wanted != np.mean(np.sign(reals))
    np.testing.assert_allclose(row["d/sign_real"], wanted, atol=1e-6)


def test_accuracy_of_d_follows_the_threshold_of_the_row():
  reals, samples = np.array([0.2, 0.7]), np.array([0.4, -1.0])
  spec = LossSpec(adversarial="toy_losses:WIDE_HINGE")
  found = d_accuracy(reals, reals, samples, spec.threshold)
  assert (found["train"], found["samples"]) == (0.5, 1.0)
  spec = LossSpec(adversarial="toy_losses:PAIRS")
  assert "train" not in d_accuracy(reals, reals, samples, spec.threshold)


def test_smoothing_needs_an_argument_of_the_loss():
  loss = adversarial.make("toy_losses:WIDE_HINGE", 0.25)
  reals = jnp.array([1.0, 2.0])
  np.testing.assert_allclose(loss.d(reals, reals).real, [0.5, 0.0])
  with pytest.raises(SpecError, match=r"label_smoothing=0.1 does not apply"):
    LossSpec(adversarial="toy_losses:PAIRS", label_smoothing=0.1)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (
      "pairs",
      r"'pairs' is not a loss; use one of 'rpgan'.*package\.module:Name",
    ),
    ("toy_losses:NO_G", r"lacks g; a Paired .* has the functions d, g of"),
    (
      "toy_losses:NO_THRESHOLD",
      r"has no finite threshold.*set it to the logit above which",
    ),
    (
      "toy_losses:PAIRED_G",
      r"g of a Separable must take logits and no other.*a Paired",
    ),
    ("toy_losses:FUNCTION", r"is <function .*, not a loss; make it a Separab"),
    (
      "toy_losses:NOTHING",
      r"'toy_losses' does not define 'NOTHING'; it defines .*PAIRS",
    ),
    ("toy_loses:PAIRS", r"importing 'toy_loses' failed.*PYTHONPATH"),
  ],
)
def test_invalid_losses_are_refused_with_a_remedy(name, message):
  with pytest.raises(SpecError, match=message):
    LossSpec(adversarial=name)


def test_a_mean_instead_of_values_is_refused():
  loss = adversarial.make("toy_losses:MEAN")
  with pytest.raises(SpecError, match=r"toy_losses:MEAN: d returns shape \(\)"):
    loss.d(jnp.zeros(3), jnp.zeros(3))


TERMS = (
  TermSpec(name="toy_losses:DRIFT", weight=constant(0.5)),
  TermSpec(
    name="toy_losses:NOISE",
    weight=Schedule(first=3.0, last=1.0, kimg=0.1),
    interval=2,
  ),
)


def test_a_penalty_by_name_reaches_d():
  loss = {"adversarial": "hinge", "terms": TERMS[:1]}
  gradient, scalars, state, _ = d_update(loss)

  def formula(real, fake):
    return D_FORMULAS["hinge"](real, fake) + 0.5 * real**2

  wanted = expected_d_gradient(state, formula)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
  assert scalars["d/drift_penalty"] > 0


@functools.cache
def penalized(microbatches=1, mesh=ONE, weights="replicated"):
  loss = {"adversarial": "wasserstein", "gradient_penalty": 1.0, "terms": TERMS}
  spec = run_spec(loss, microbatches=microbatches)
  return train(spec, linear_model(), mesh=mesh, weights=weights)


def test_a_lazy_penalty_is_computed_at_its_interval():
  _, rows = penalized()
  assert rows[0]["d/noise_penalty"] > 0
  assert rows[1]["d/noise_penalty"] == 0
  assert all(row["d/gradient_penalty"] > 0 for row in rows)
  # Its weight changes, and the monitor knows when the change ends.
  spec = run_spec({"adversarial": "hinge", "terms": TERMS})
  assert spec.kinks_kimg == (0.1,)


@pytest.mark.parametrize(
  ("microbatches", "mesh", "weights"),
  [(2, ONE, "replicated"), (1, TWO, "zero"), (2, TWO, "fsdp")],
)
def test_a_penalty_is_the_same_on_any_mesh(microbatches, mesh, weights):
  states, rows = penalized(microbatches, mesh, weights)
  wanted_states, wanted = penalized()
  for row, there in zip(rows, wanted, strict=True):
    for name in ("d/noise_penalty", "d/drift_penalty", "d/gradient_penalty"):
      assert row[name] == pytest.approx(there[name], rel=1e-4), name
  np.testing.assert_allclose(
    states[-1].d.params["map"]["kernel"],
    wanted_states[-1].d.params["map"]["kernel"],
    rtol=1e-3,
    atol=1e-5,
  )


def test_terms_are_settings_like_others():
  spec = run_spec({"adversarial": "hinge", "terms": TERMS})
  config = to_json(spec)
  assert from_config(config) == spec
  config["loss"]["terms"] = [{"name": "toy_losses:DRIFT", "weight": 2}]
  (term,) = from_config(config).loss.terms
  assert term == TermSpec(name="toy_losses:DRIFT", weight=constant(2.0))


@pytest.mark.parametrize(
  ("term", "message"),
  [
    ({"name": "toy_losses:PAIRS"}, r"is Paired.*, not a penalty on D.*a DTerm"),
    (
      {"name": "toy_losses:UNNAMED"},
      r"scalar='drift' must have the form d/NAME_penalty",
    ),
    (
      {"name": "toy_losses:pairs_d"},
      r"contains 'toy_losses:pairs_d', which is .*, not a penalty on D",
    ),
    (
      {"name": "toy_losses:SHORT"},
      r"must take \(discriminator, reals, fakes, uniform\)",
    ),
    ({"name": "drift"}, r"'drift' does not name a penalty on D; write package"),
    ({"name": "toy_losses:DRIFT", "interval": 0}, r"is 0; it must be 1"),
    ({"weight": -1.0, "name": "toy_losses:DRIFT"}, r"must not be negative"),
  ],
)
def test_invalid_penalties_are_refused(term, message):
  term = {"weight": 1.0, **term}
  with pytest.raises(SpecError, match=message):
    TermSpec(**term | {"weight": constant(term["weight"])})


def test_two_penalties_with_one_name_are_refused():
  with pytest.raises(SpecError, match="give each a unique name"):
    LossSpec(adversarial="hinge", terms=(TERMS[0], TERMS[0]))


def test_a_penalty_that_is_a_sum_is_refused():
  summed = TermSpec(name="toy_losses:SUMMED", weight=constant(1.0))
  with pytest.raises(SpecError, match=r"SUMMED' of loss\.terms returned shape"):
    d_update({"adversarial": "hinge", "terms": (summed,)})
