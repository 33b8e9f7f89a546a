"""Tests of model families and learning rate rules."""

import dataclasses

import pytest

from bigscale.models import biggan, biggan_deep, r3gan
from bigscale.models import stripped_stylegan2 as stripped
from bigscale.scaling import families, rules
from bigscale.scaling.flops import total_flops, training_flops
from bigscale.scaling.network_cost import parameters
from bigscale.spec import SpecError
from tests.scaling.flops_table import spec_of

CIFAR10 = r3gan.PRESETS["cifar10"]
BIGGAN = biggan.PRESETS["128"]
DEEP = biggan_deep.PRESETS["128"]


def of(base, count, **options):
  return families.member(base, families.of_parameters(count), **options)


def test_published_r3gans_are_members():
  """The FFHQ models follow from an unconditional base by their size alone."""
  base = r3gan.PRESETS["stacked_mnist"]
  for name in ("ffhq64", "ffhq256"):
    published = r3gan.PRESETS[name]
    found = of(
      base,
      parameters(published).total,
      resolution=published.resolution,
    )
    same = dataclasses.replace(published, bf16_stages=found.model.bf16_stages)
    assert found.model == same
    assert found.achieved == parameters(published).total


def test_published_biggans_are_members():
  for name in ("64", "128", "256"):
    published = biggan.PRESETS[name]
    members = families.widths_of(BIGGAN, resolution=published.resolution)
    found = members(published.g_width)
    # The paper moves attention, and 64 px has another latent size.
    same = ("latent_dim", "g_attention", "d_attention")
    kept = {field: getattr(found, field) for field in same}
    assert found == dataclasses.replace(published, **kept)
  assert families.widths_of(BIGGAN, resolution=256)(96).latent_dim == 140
  assert families.widths_of(BIGGAN, resolution=64)(64).g_attention == (32,)
  assert families.widths_of(BIGGAN, resolution=32)(64).g_attention == ()


@pytest.mark.parametrize(
  ("count", "depth"), [(3e5, 2), (3e6, 1), (3e7, 4), (3e8, 2)]
)
def test_r3gans_reach_a_size_at_any_depth(count, depth):
  found = of(CIFAR10, count, depth=depth)
  assert found.achieved == parameters(found.model).total
  assert found.achieved == pytest.approx(count, rel=0.1)
  assert found.model.blocks == (depth,) * 4
  # Groups have the width of the published models.
  for stage, groups in enumerate(found.model.cardinality):
    assert found.model.inner_width(stage) == 16 * groups


def test_deeper_members_are_narrower():
  wide, narrow = (of(CIFAR10, 1e6, depth=d).model.widths[0] for d in (1, 3))
  assert wide > narrow


# The larger ones trace deeper networks by the same rules.
_LARGE = [pytest.param(r, marks=pytest.mark.slow) for r in (64, 128, 256)]


@pytest.mark.parametrize("resolution", [8, 32, *_LARGE])
@pytest.mark.parametrize("base", [BIGGAN, DEEP], ids=["biggan", "deep"])
def test_biggans_reach_a_size_at_any_resolution(base, resolution):
  if base is DEEP and resolution < 64:
    return
  found = of(base, 2e7, resolution=resolution)
  assert found.model.resolution == resolution
  assert found.achieved == pytest.approx(2e7, rel=0.1)
  assert found.model.g_width == found.model.d_width


def test_no_other_width_is_closer():
  found = of(BIGGAN, 5e7)
  members = families.widths_of(BIGGAN)
  apart = [
    abs(parameters(members(found.model.g_width + step)).total - 5e7)
    for step in (-1, 0, 1)
  ]
  assert min(apart) == apart[1]


def test_networks_keep_their_ratio():
  base = dataclasses.replace(DEEP, g_width=64, d_width=96)
  found = of(base, 2e7, depth=1).model
  assert 3 * found.g_width == 2 * found.d_width
  assert (found.g_depth, found.d_depth) == (1, 1)


def test_a_dense_network_stays_dense():
  found = of(r3gan.PRESETS["D"], 1e7, resolution=64).model
  assert found.cardinality == (1,) * 5
  assert found.widths[4] * 2 == found.widths[3]


def test_hierarchical_chunks_keep_their_length():
  base = dataclasses.replace(CIFAR10, hierarchical=True)
  found = of(base, 1e7, resolution=64).model
  assert found.latent_dim == 64 // 4 * 5


def test_a_flop_target_is_reached():
  recipe = spec_of("r3gan:cifar10")
  target = families.of_flops(3e9, recipe)
  found = families.member(CIFAR10, target, depth=1)
  run = dataclasses.replace(recipe, model=found.model)
  assert found.achieved == training_flops(run).per_image
  assert found.achieved == pytest.approx(3e9, rel=0.1)


def test_a_flop_budget_sets_the_length_of_the_run():
  run = rules.within(spec_of("fashion_r3gan"), 1e12)
  per_step = training_flops(run).per_step
  assert 1e12 - per_step < total_flops(run) <= 1e12
  assert run.total_steps == 1e12 // per_step
  with pytest.raises(SpecError, match=r"is less than one step.*use"):
    rules.within(run, per_step * 0.99)


@pytest.mark.parametrize(
  ("base", "count", "options", "said"),
  [
    (CIFAR10, 100, {}, r"parameters=100; the nearest has 4.358e\+04 \(widths"),
    (BIGGAN, 1e3, {}, r"the nearest has .* \(g_width 8, d_width 8"),
    (BIGGAN, -1, {}, "must be positive"),
    (
      BIGGAN,
      1e7,
      {"resolution": 48},
      "resolution=48 .* use one of 8, 16, 32, 64, 128",
    ),
    (DEEP, 1e7, {"resolution": 32}, "resolution=32 .* use one of 64, 128"),
    (CIFAR10, 1e7, {"resolution": 48}, "resolution=48 .* example 32"),
    (CIFAR10, 1e7, {"resolution": 0}, "resolution=0 .* example 4"),
    (BIGGAN, 1e7, {"depth": 2}, "depth=2 .* BigGAN's tables .*biggan_deep"),
    (DEEP, 1e7, {"depth": 0}, "depth=0 must be 1"),
    (
      stripped.PRESETS["B"],
      1e7,
      {},
      "stripped_stylegan2 does not define models of other widths",
    ),
  ],
)
def test_impossible_targets_name_the_nearest(base, count, options, said):
  with pytest.raises(SpecError, match=said):
    of(base, count, **options)


@pytest.mark.parametrize(
  ("width_rule", "batch_rule", "factor"),
  [
    ("constant", "constant", 1),
    ("inverse", "constant", 1 / 2),
    ("constant", "linear", 4),
    ("constant", "sqrt", 2),
    ("inverse", "sqrt", 1),
  ],
)
def test_learning_rates_follow_their_rules(width_rule, batch_rule, factor):
  spec = spec_of("r3gan:cifar10")
  wide = families.widths_of(spec.model)(2 * 96)
  assert wide.widths[0] == 2 * spec.model.widths[0]
  found = rules.rescaled(
    spec,
    model=wide,
    global_batch_size=4 * 512,
    width_rule=width_rule,
    batch_rule=batch_rule,
  )
  assert (found.model, found.global_batch_size) == (wide, 2048)
  for lr, old in (
    (found.optim.g_lr, spec.optim.g_lr),
    (found.optim.d_lr, spec.optim.d_lr),
  ):
    assert lr.first == pytest.approx(factor * old.first)
    assert lr.last == pytest.approx(factor * old.last)
    assert lr.kimg == old.kimg


def test_each_player_follows_its_own_width():
  spec = spec_of("biggan:128")
  model = dataclasses.replace(spec.model, d_width=192)
  found = rules.rescaled(spec, model=model, width_rule="inverse")
  assert found.optim.g_lr == spec.optim.g_lr
  assert found.optim.d_lr.last == spec.optim.d_lr.last / 2


def test_unknown_rules_are_refused():
  spec = spec_of("biggan:128")
  with pytest.raises(SpecError, match=r"'cubic'.*constant, linear, sqrt"):
    rules.rescaled(spec, batch_rule="cubic")
  with pytest.raises(SpecError, match="mean different things"):
    rules.rescaled(spec, model=CIFAR10, width_rule="inverse")
