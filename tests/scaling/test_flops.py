"""Tests the FLOP counted from shapes against the program that trains."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bigscale.models.make import make_model
from bigscale.scaling import jaxpr_flops
from bigscale.scaling.flops import (
  sample_flops,
  total_flops,
  training_flops,
)
from bigscale.spec.objective import AugmentSpec
from tests.scaling import traced
from tests.scaling.flops_table import RUNS, spec_of
from tests.scaling.tiny_runs import (
  ATTENTIVE,
  BIGGAN,
  DEEP,
  GP,
  HINGE,
  PARTS,
  R1,
  R3GAN,
  RPGAN,
  STRIPPED,
  spec_from,
)

ROOT = pathlib.Path(__file__).parent.parent.parent

FAST = {
  "r3gan": (
    R3GAN | {"hierarchical": True, "shared_embedding": True},
    RPGAN,
    {},
  ),
  "stripped": (STRIPPED, {"adversarial": "non_saturating"} | R1, {}),
  "biggan": (ATTENTIVE, HINGE | {"orthogonal": 1e-4}, {}),
  "biggan_8": (BIGGAN | {"resolution": 8}, HINGE, {}),
}
SLOW = {
  "biggan_16": (
    ATTENTIVE | {"resolution": 16, "latent_dim": 15, "d_attention": (8,)},
    HINGE,
    {},
  ),
  "biggan_penalized": (ATTENTIVE, HINGE | R1, {}),
  "biggan_mixtures": (ATTENTIVE, HINGE | GP, {}),
  "biggan_mixtures_plain": (BIGGAN, HINGE | GP, {}),
  "biggan_parts": (ATTENTIVE, HINGE | {"orthogonal": 1e-4}, PARTS),
  "biggan_once": (BIGGAN | {"spectral_update": "step"}, RPGAN, PARTS),
  "biggan_bounds": (
    BIGGAN,
    HINGE
    | {
      "orthogonal": 1e-4,
      "orthogonal_form": "full",
      "g_sigma": {"clamp": 1.0, "strength": 1.0},
    },
    {},
  ),
  "biggan_tables": (
    BIGGAN | {"shared_dim": 0, "hierarchical": False, "d_wide": False},
    HINGE | {"orthogonal": 1e-4},
    {},
  ),
  "sngan": (BIGGAN | {"g_spectral": False}, HINGE, {"d_steps": 5}),
  "biggan_unlabeled": (BIGGAN | {"num_classes": 0}, HINGE, {}),
  "biggan_plain": (
    BIGGAN | {"num_classes": 0, "hierarchical": False},
    HINGE,
    {},
  ),
  "biggan_own_length": (BIGGAN | {"shared_dim": 0}, HINGE, {}),
  "deep": (DEEP | {"g_attention": (16,)}, HINGE | {"orthogonal": 1e-4}, {}),
  "deep_pytorch": (DEEP | {"layout": "pytorch", "num_classes": 0}, RPGAN, {}),
  "r3gan_r2": (
    R3GAN | {"hierarchical": True, "num_classes": 0},
    {"adversarial": "rpgan", "r2_gamma": 1.0},
    {},
  ),
  "r3gan_mixtures": (R3GAN, {"adversarial": "wasserstein"} | GP, {}),
  "r3gan_orthogonal": (R3GAN, RPGAN | {"orthogonal": 1e-4}, PARTS),
}
AUGMENTED = {
  "ada": {"pipe": "ada"},
  "ada_color": {"pipe": "ada", "transforms": ("color",)},
  "diffaugment": {"pipe": "diffaugment"},
}


def assert_traced(spec, rel=None):
  cost = training_flops(spec)
  found = traced.step_flops(spec)
  if rel is None:
    # The last layer of a penalized D has one product less, since the input of
    # its backward pass is constant.
    rel = 1e-5 if cost.penalties else 0
  expected = cost.per_step + cost.augmentation
  assert found == pytest.approx(expected, rel=rel, abs=0)


@pytest.mark.parametrize("case", FAST)
def test_step_flop_match_its_trace(case):
  assert_traced(spec_from(*FAST[case]))


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_flop_of_every_recipe_match_its_trace(case):
  assert_traced(spec_from(*SLOW[case]))


@pytest.mark.slow
@pytest.mark.parametrize("pipe", AUGMENTED)
def test_augmentation_flop_match_its_trace(pipe):
  # The count excludes the 3x3 and 4x4 matrices of random transforms.
  spec = spec_from(R3GAN, RPGAN, {}, augment=AUGMENTED[pipe])
  assert_traced(spec, rel=4e-4)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_flop_of_small_presets_match_their_traces(run):
  small = spec_of(run, small=True)
  interval = small.model.spectra_interval
  if interval:
    model = dataclasses.replace(small.model, spectra_interval=1)
    small = dataclasses.replace(small, model=model)
  # As above, for configs that augment.
  assert_traced(small, rel=4e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  "run",
  ["biggan:128", "biggan_deep:128", "r3gan:cifar10", "r3gan_roadmap:B"],
)
def test_flop_of_full_presets_match_xla(run):
  """Without loops, since XLA counts a loop body once."""
  spec = spec_of(run)
  spec = dataclasses.replace(
    spec,
    optim=dataclasses.replace(spec.optim, d_steps=1),
    augment=AugmentSpec(),
  )
  program = traced.trace(spec)
  cost = training_flops(spec)
  found = jaxpr_flops.count(program.jaxpr).flops
  assert found == pytest.approx(cost.per_step, rel=2e-3)
  # Other operations are counted approximately, and are few.
  everything = cost.per_step + cost.elementwise + cost.optimizer
  xla = program.lower().cost_analysis()["flops"]
  assert xla == pytest.approx(everything, rel=5e-3)


def test_lazy_penalties_cost_a_fraction():
  every = spec_from(R3GAN, RPGAN, {})
  lazy = spec_from(R3GAN, RPGAN | {"penalty_interval": 4}, {})
  never = spec_from(R3GAN, {"adversarial": "rpgan"}, {})
  costs = [training_flops(spec) for spec in (every, lazy, never)]
  assert costs[2].penalties == 0
  assert costs[1].penalties == costs[0].penalties / 4
  assert costs[1].d_step == costs[0].d_step == costs[2].d_step


def test_penalties_on_reals_and_fakes_cost_the_same():
  one = spec_from(R3GAN, {"adversarial": "rpgan"} | R1, {})
  both = spec_from(R3GAN, RPGAN, {})
  assert 2 * training_flops(one).penalties == training_flops(both).penalties > 0


def test_costs_follow_batch_and_d_steps():
  one = training_flops(spec_from(BIGGAN, HINGE, {}))
  two = training_flops(spec_from(BIGGAN, HINGE, {"d_steps": 2}))
  wide = training_flops(spec_from(BIGGAN, HINGE, {}, global_batch_size=16))
  assert two.d_step == 2 * one.d_step
  assert two.g_step == one.g_step
  assert (two.images, one.images, wide.images) == (16, 8, 16)
  assert wide.d_step == 2 * one.d_step
  # These depend only on the weights.
  assert wide.spectral == one.spectral
  assert wide.optimizer == one.optimizer


def test_run_flop_are_the_sum_of_its_steps():
  spec = spec_from(BIGGAN, HINGE, {"d_steps": 2})
  assert spec.total_steps == 63
  assert total_flops(spec) == 63 * training_flops(spec).per_step
  cost = training_flops(spec)
  assert cost.per_image == cost.per_step / 16


def test_image_flop_match_the_generator():
  spec = spec_from(ATTENTIVE, HINGE, {})
  model = make_model(spec.model, traced.PLAIN)
  variables = jax.eval_shape(model.g.init, jax.random.key(0))

  def generate(variables, latents, labels):
    return model.g.apply(variables, latents, labels, train=False)[0]

  program = jax.jit(generate).trace(
    variables,
    jax.ShapeDtypeStruct((1, spec.model.latent_dim), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  assert jaxpr_flops.count(program.jaxpr).flops == pytest.approx(
    sample_flops(spec.model), rel=6e-3
  )


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_flop_match_xla(size, groups):
  """The forward pass and both gradients, with native groups."""
  x = jax.ShapeDtypeStruct((2, 5, 5, 8), jnp.float32)
  w = jax.ShapeDtypeStruct((size, size, 8 // groups, 4), jnp.float32)

  def conv(x, w):
    return lax.conv_general_dilated(
      x,
      w,
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  y = jax.eval_shape(conv, x, w)

  def with_gradients(x, w, y):
    out, pull = jax.vjp(conv, x, w)
    return out, pull(y)

  taps = (size * 5 - size // 2 * 2) ** 2
  each = 2 * 2 * taps * (8 // groups) * 4
  for function, arguments, times in (
    (conv, (x, w), 1),
    (with_gradients, (x, w, y), 3),
  ):
    program = jax.jit(function).trace(*arguments)
    assert jaxpr_flops.count(program.jaxpr).flops == times * each
    assert program.lower().cost_analysis()["flops"] == times * each


def rows_of(name):
  """Cells of all Markdown table rows in a text, by the first cell."""
  text = (ROOT / name).read_text()
  return {
    cells[0]: cells[1:]
    for line in text.splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("| ").split("|")]]
  }


# The larger ones are the same networks with more stages.
_LARGE = ("biggan_deep:256", "biggan_deep:512", "biggan:512")


@pytest.mark.parametrize(
  "run",
  [
    pytest.param(run, marks=pytest.mark.slow if run in _LARGE else ())
    for run in RUNS
  ],
)
def test_table_matches_the_count(run):
  gflop = training_flops(spec_of(run)).per_image / 1e9
  assert rows_of("docs/reference/flops.md")[run][0] == f"{gflop:.4g}"


def test_traces_in_the_table_agree_with_the_count():
  rows = rows_of("docs/reference/flops.md")
  apart = [float(rows[run][1].rstrip("%")) for run in RUNS]
  assert max(map(abs, apart)) < 0.2


@pytest.mark.parametrize(
  ("name", "column", "count"),
  [
    ("biggan", 1, lambda spec: total_flops(spec)),
    ("r3gan", 3, lambda spec: training_flops(spec).per_image),
    ("r3gan_roadmap", 3, lambda spec: total_flops(spec)),
  ],
)
def test_config_headers_match_the_count(name, column, count):
  rows = rows_of(f"configs/{name}.py")
  checked = 0
  for argument, cells in rows.items():
    if re.fullmatch(r"\d\.\de\d+", cells[column]):
      spec = spec_of(f"{name}:{argument}")
      assert f"{count(spec):.1e}".replace("e+", "e") == cells[column]
      checked += 1
  assert checked >= 4
