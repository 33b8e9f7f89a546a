"""Every field of every spec has a type and a meaning that help can print."""

import dataclasses

import pytest

from bigscale.spec import RunSpec, Schedule, SpecError, TermSpec
from bigscale.spec.describe import (
  REQUIRED,
  attributes_of,
  describe,
  meaning_of,
  summary_of,
  type_in_words,
)
from bigscale.spec.model import ModelBase, families, family


def classes():
  """All spec classes: those inside `RunSpec`, and all families."""
  found, waiting = {}, [RunSpec, *map(family, families())]
  while waiting:
    kind = waiting.pop()
    found[kind.__name__] = kind
    for field in dataclasses.fields(kind):
      hints = (field.type, *getattr(field.type, "__args__", ()))
      waiting += [hint for hint in hints if dataclasses.is_dataclass(hint)]
  found.pop("Schedule")
  return found


CLASSES = classes()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_field_has_a_meaning(kind):
  """The error names the file, the line, the class and the field."""
  settings = list(describe(kind))
  assert len(settings) >= 1
  assert all(s.meaning.strip() and s.type for s in settings)
  assert summary_of(kind)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_entry_is_of_a_field(kind):
  fields = {field.name for field in dataclasses.fields(kind)}
  assert set(attributes_of(kind)) <= fields


def test_paths_values_and_defaults_of_a_class():
  settings = {s.path: s for s in describe(RunSpec)}
  assert settings["global_batch_size"].default is REQUIRED
  assert settings["optim.g_lr"].type == "float or schedule"
  assert settings["monitor.verdict.warmup"].value == 200
  assert settings["data.mixture"].value == ()
  assert settings["data.mixture.N.share"].default == 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family(ModelBase):
  """A family.

  Attributes:
    depth: number of blocks, counted
      from 1: at least 1.

    latent_dim: length of z, in `float32`.

  Raises:
    width: not an attribute.
  """

  depth: int = 2
  width: int = 8


def test_a_field_without_an_entry_is_refused():
  with pytest.raises(
    SpecError, match=r"test_describe\.py:\d+: .*_Family.*width"
  ):
    meaning_of(_Family, "width")
  assert meaning_of(_Family, "width", missing="?") == "?"


def test_entries_are_joined_and_inherited():
  settings = {
    s.path: s for s in describe(_Family(resolution=8), "m", missing="?")
  }
  assert settings["m.depth"].meaning == (
    "number of blocks, counted from 1: at least 1."
  )
  assert settings["m.latent_dim"].meaning == "length of z, in `float32`."
  shared = attributes_of(ModelBase)
  assert settings["m.remat"].meaning == shared["remat"]
  assert settings["m.width"][1:] == ("int", 8, 8, "?")


@dataclasses.dataclass(frozen=True)
class _Losses:
  """A list of specs.

  Attributes:
    terms: penalties.
  """

  terms: tuple[TermSpec, ...] = ()


def test_a_list_of_specs_yields_each_entry():
  term = TermSpec(
    name="bigscale.losses.wgan_gp:TERM", weight=Schedule(first=1.0, last=2.0)
  )
  assert [s.path for s in describe(_Losses())] == ["terms"]
  settings = {s.path: s for s in describe(_Losses((term, term)))}
  assert list(settings)[3:] == [
    "terms.1.name",
    "terms.1.weight",
    "terms.1.interval",
  ]
  assert settings["terms.1.weight"].value == term.weight


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    (int | None, "int or None"),
    (tuple[int, ...], "list of int"),
    (Schedule | None, "float or schedule or None"),
  ],
)
def test_types_in_words(kind, words):
  assert type_in_words(kind) == words
