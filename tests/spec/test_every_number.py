"""Every numeric field of a spec rejects invalid values and names the field."""

import contextlib
import copy
import dataclasses
import math

import pytest

from bigscale.spec import Schedule, SpecError, from_config
from tests.e2e import tiny
from tests.scaling import tiny_runs

BASE = tiny.get_config().to_dict()
STRIPPED = {"name": "stripped_stylegan2", "resolution": 8, "widths": (8, 8)}
SETTINGS = {
  "r3gan": BASE,
  "biggan": BASE | {"model": tiny_runs.BIGGAN},
  "stripped": BASE | {"model": STRIPPED | {"num_classes": 10}},
  "biggan_deep": BASE | {"model": tiny_runs.DEEP},
}
# -1 reads the value from the devices.
AUTOMATIC = {"mesh.data", "mesh.slices"}


def leaves(group, path=""):
  """Yields the dotted names and values of all fields except str and bool."""
  for field in dataclasses.fields(group):
    value, name = getattr(group, field.name), f"{path}{field.name}"
    if isinstance(value, Schedule):
      yield name, value
    elif dataclasses.is_dataclass(value):
      yield from leaves(value, f"{name}.")
    elif not isinstance(value, (bool, str)):
      yield name, value


def numbers():
  for kind, settings in SETTINGS.items():
    for path, value in leaves(from_config(settings)):
      if kind == "r3gan" or path.startswith("model."):
        yield kind, path, value


NUMBERS = list(numbers())


def put(kind, path, value):
  settings = copy.deepcopy(SETTINGS[kind])
  *groups, last = path.split(".")
  below = settings
  for group in groups:
    if not isinstance(below.get(group), dict):
      below[group] = {}
    below = below[group]
  below[last] = value
  return from_config(settings)


def refused(kind, path, value):
  with pytest.raises(SpecError) as raised:
    put(kind, path, value)
  said = str(raised.value)
  assert path.rpartition(".")[2] in said, said
  assert "\n" not in said
  assert len(said) < 900


def test_many_fields_are_found():
  assert len(NUMBERS) > 120
  assert {kind for kind, _, _ in NUMBERS} == set(SETTINGS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_nonfinite_values_are_rejected(value):
  for kind, path, before in NUMBERS:
    many = isinstance(before, tuple)
    refused(kind, path, [value] * max(1, len(before)) if many else value)


@pytest.mark.parametrize("value", ["nan", "1", {}, [[]], {"first": "x"}, b""])
def test_non_numbers_are_rejected(value):
  for kind, path, before in NUMBERS:
    if before is not None:
      refused(kind, path, value)


@pytest.mark.parametrize("value", [-1, -1.0, -(2**62)])
def test_negative_values_are_rejected(value):
  for kind, path, before in NUMBERS:
    if path in AUTOMATIC and value == -1:
      continue
    if isinstance(before, tuple):
      # Pairs and lists of groups have other rules.
      if before and all(type(each) is int for each in before):
        refused(kind, path, [value] * len(before))
    elif before is not None:
      refused(kind, path, value)


@pytest.mark.parametrize("value", [1e30, 2**70, -1e30, 1e-300, 3, 0, 0.5, None])
def test_other_values_raise_only_spec_errors(value):
  for kind, path, before in NUMBERS:
    many = isinstance(before, tuple)
    given = [value] * max(1, len(before)) if many else value
    with contextlib.suppress(SpecError):
      put(kind, path, given)
