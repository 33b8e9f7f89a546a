"""Every setting says whether it may change when a run resumes."""

import dataclasses
import itertools
import types
import typing

import pytest

from bigscale.spec import Change, ModelBase, RunSpec, Schedule, changes
from bigscale.spec.model import families, family


def groups_in(kind):
  """Returns the dataclasses in a type, with all families for a model."""
  if kind is ModelBase:
    return [family(name) for name in families()]
  if dataclasses.is_dataclass(kind):
    return [kind]
  inner = typing.get_args(kind)
  if typing.get_origin(kind) is typing.Literal:
    return []
  return list(itertools.chain(*map(groups_in, inner)))


def leaves_of(kind, path=""):
  """Yields the dotted names of all settings, for unions of all members."""
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    name = f"{path}.{field.name}" if path else field.name
    of = hints[field.name]
    groups = groups_in(of)
    if typing.get_origin(of) is tuple:
      name += "[0]" * bool(groups)
    if not groups or types.NoneType in typing.get_args(of):
      yield name
    for group in groups:
      yield from leaves_of(group, name)


LEAVES = sorted(set(leaves_of(RunSpec)))


def test_leaves_include_known_settings():
  assert len(LEAVES) > 150
  for name in (
    *("seed", "model.widths", "model.g_attention", "data.mixture[0].share"),
    *("monitor.verdict.quiet", "optim.g_lr.first", "optim.ema_half_life_kimg"),
    *("optim.ema_half_life_kimg.kimg", "loss.g_sigma.clamp"),
  ):
    assert name in LEAVES


@pytest.mark.parametrize("name", LEAVES)
def test_every_setting_has_a_nature(name):
  nature = changes.nature_of(name)
  assert bool(nature.why) == (nature.kind != "free"), name


def test_every_nature_has_a_setting():
  """No entry is left over from a removed setting."""
  for name in changes.NATURES:
    assert any(
      leaf.partition("[")[0] == name or f"{leaf}.".startswith(f"{name}.")
      for leaf in LEAVES
    ), name


@pytest.mark.parametrize("group", ["data", "optim", "mesh"])
def test_groups_of_several_natures_have_no_default(group):
  """A new setting of these groups has no entry by default."""
  assert group not in changes.NATURES
  with pytest.raises(KeyError, match="add it"):
    changes.nature_of(f"{group}.new")


def test_unknown_sections_raise():
  with pytest.raises(KeyError, match="add it"):
    changes.nature_of("section.setting")
  # A setting of another version is fixed.
  assert Change("section.setting", 1, 2).nature.kind == "fixed"


def test_refusal_lists_both_values_and_a_remedy():
  found = [
    Change("evaluate.kimg", 1.0, 2.0),
    Change("optim.g_lr.first", 1e-3, 5e-4),
    Change("seed", 0, 1),
  ]
  said = changes.refusal(found, asked=False)
  assert "evaluate" not in said
  assert "seed: 0 there, 1 here (weights, latents" in said
  assert "optim.g_lr.first: 0.001 there, 0.0005 here" in said
  assert "--change" in said
  assert "g_lr" not in changes.refusal(found, asked=True)
  assert changes.refusal(found[:2], asked=True) == ""
  assert changes.refusal(found[:1], asked=False) == ""


def test_fields_of_a_schedule_share_its_nature():
  for name in ("optim.g_lr", "optim.beta2", "augment.probability"):
    for field in dataclasses.fields(Schedule):
      assert changes.nature_of(f"{name}.{field.name}") == changes.nature_of(
        name
      )
