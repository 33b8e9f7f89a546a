"""Every field of a spec can be overridden on the command line."""

import dataclasses
import typing

import pytest
from ml_collections import ConfigDict

from bigscale.cli.config_flags import ConfigFlags, config_of, spec_of
from bigscale.cli.main import main
from bigscale.cli.overrides import override
from bigscale.models.r3gan import R3ganSpec
from bigscale.spec import ModelBase, RunSpec, SpecError, from_config
from bigscale.spec.base import Schedule
from tests.e2e import tiny


def spec(*words, config=tiny.__file__):
  values = ConfigFlags()
  values.define_config("")
  values.read(["x", f"--config={config}", *words])
  return spec_of(values)


def at(found, path):
  for name in path.split("."):
    found = getattr(found, name)
  return found


@pytest.mark.parametrize(
  ("setting", "value"),
  [
    # Fields that the config file sets.
    ("total_kimg=0.064", 0.064),
    ("seed=7", 7),
    ("data.flip=false", False),
    ("loss.adversarial=hinge", "hinge"),
    ("model.widths=32,16", (32, 16)),
    ("model.widths=(32, 16)", (32, 16)),
    ("model.widths=[32,16]", (32, 16)),
    ("evaluate.scores=fd_classifier,kid_classifier",
     ("fd_classifier", "kid_classifier")),
    ("evaluate.scores=fd_classifier", ("fd_classifier",)),
    ("evaluate.scores=('fd_classifier', 'kid_classifier')",
     ("fd_classifier", "kid_classifier")),
    # Fields that the config file does not set.
    ("monitor.action=rollback", "rollback"),
    ("monitor.verdict.limit=30", 30.0),
    ("monitor.interval=5", 5),
    ("operations.hang_seconds=60", 60.0),
    ("augment.pipe=diffaugment", "diffaugment"),
    ("augment.transforms=()", ()),
    ("augment.target=none", None),
    ("optim.beta1=0.5", 0.5),
    ("evaluate.classifier_steps=None", None),
    ("optim.ema_half_life_kimg=none", None),
    ("checkpoint.best=fd_classifier", "fd_classifier"),
    ("loss.g_sigma.ratio=1e1", 10.0),
    # Schedules.
    ("optim.g_lr=3e-4", Schedule(first=3e-4, last=3e-4)),
    ("optim.g_lr={'first': 1.0, 'last': 0.5, 'kimg': 2}",
     Schedule(first=1.0, last=0.5, kimg=2.0)),
  ],
)  # fmt: skip
def test_an_override_sets_value_and_type(setting, value):
  found = at(spec(f"--config.{setting}"), setting.partition("=")[0])
  assert found == value
  assert type(found) is type(value)


def test_a_number_becomes_a_schedule():
  words = ["--config.optim.g_lr.last=1e-5", "--config.optim.g_lr.kimg=4"]
  assert spec(*words).optim.g_lr == Schedule(first=1e-3, last=1e-5, kimg=4.0)


def test_an_override_of_the_name_changes_the_family():
  words = ["--config.model.name=biggan", "--config.model.g_width=8"]
  with pytest.raises(SpecError, match=r"unknown key config.model"):
    # The remaining fields of the other family are unknown; g_width is not.
    spec(*words)


def test_the_last_of_several_overrides_wins():
  assert spec("--config.seed=1", "--config.seed=2").seed == 2


@pytest.mark.parametrize(
  ("words", "flip"),
  [
    (["--config.data.flip"], True),
    (["--noconfig.data.flip"], False),
    (["-config.data.flip=no"], False),
    (["--config.data.flip", "0"], False),
  ],
)
def test_switches_and_values_after_a_space(words, flip):
  assert spec(*words).data.flip is flip


@pytest.mark.parametrize(
  ("setting", "words"),
  [
    ("optim.g_lrr=1", ("--config.optim.g_lrr", "did you mean 'g_lr'")),
    ("modle.widths=3", ("--config.modle", "did you mean 'model'")),
    ("seed.first=3", ("--config.seed", "a value, not a group")),
    (
      "optim=3",
      ("--config.optim=3: this is a group", "--config.optim.NAME=VALUE"),
    ),
    ("seed=1.5", ("--config.seed=1.5 must be a whole number",)),
    ("seed=1_0", ("--config.seed=1_0 must be a whole number",)),
    ("total_kimg=many", ("--config.total_kimg=many must be a number",)),
    ("total_kimg=", ("--config.total_kimg= must be a number",)),
    ("data.flip=maybe", ("must be true or false",)),
    ("model.widths=a,b", ("--config.model.widths=a must be a whole number",)),
    ("optim.g_lr=fast", ("--config.optim.g_lr=fast must be a number",)),
    ("loss.adversarial=hing", ("'hing'", "'hinge'")),
    ("total_kimg=inf", ("must be a finite number",)),
  ],
)
def test_an_invalid_override_is_an_error(setting, words, tmp_path, capsys):
  run = ["train", f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}"]
  assert main(["bigscale", *run, f"--config.{setting}"]) == 2
  said = capsys.readouterr().err
  assert "Traceback" not in said
  for word in words:
    assert word in said
  assert not (tmp_path / "run").exists()


def test_an_override_without_a_config_is_an_error(capsys):
  words = ["import", "weights.pth", "--out=x", "--format=r3gan"]
  assert main(["bigscale", *words, "--config.seed=3"]) == 2
  assert "--config is missing" in capsys.readouterr().err


def test_fields_of_a_sweep_can_be_overridden(tmp_path):
  config = tmp_path / "swept.py"
  base = tiny.get_config().to_dict()
  config.write_text(
    f"def get_config():\n  return {{'base': {base!r}, 'blocks': "
    "{'a': {'seed': [0]}}}\n"
  )
  values = ConfigFlags()
  values.define_config("")
  words = ["--config.base.monitor.action=off", "--config.base.total_kimg=1"]
  words += ["--config.blocks.a.seed=[3, 4]"]
  values.read(["x", f"--config={config}", *words])
  found = config_of(values, {"base": RunSpec})
  assert found["base"]["monitor"]["action"] == "off"
  assert found["base"]["total_kimg"] == 1.0
  assert found["blocks"]["a"]["seed"] == [3, 4]


def fields(kind, path=""):
  """Yields the path and default of every field that is not a group."""
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    name, of = f"{path}{field.name}", hints[field.name]
    if of is ModelBase:
      of = R3ganSpec
    if dataclasses.is_dataclass(of) and of is not Schedule:
      yield from fields(of, f"{name}.")
    elif field.default is not dataclasses.MISSING and field.name != "mixture":
      yield name, field.default


@pytest.mark.parametrize(("name", "default"), list(fields(RunSpec)))
def test_every_field_can_be_overridden_with_its_default(name, default):
  """The text of the default is accepted for every type."""
  bare = {"global_batch_size": 8, "total_kimg": 1.0}
  kept = {k: tiny.get_config()[k] for k in ("model", "loss", "data", "optim")}
  config = ConfigDict(bare | kept)
  if isinstance(default, Schedule):
    text = str(dataclasses.asdict(default))
  elif isinstance(default, tuple):
    text = ",".join(map(str, default))
  else:
    text = str(default)
  if name == "data.source":
    text = "emoji"
  override(config, RunSpec, [f"{name}={text}"])
  found = at(from_config(config), name)
  assert found == (text if name == "data.source" else default)


def test_an_entry_of_a_list_of_groups_is_set_by_its_index():
  config = "configs/chaos_embedded.py"
  words = ("--config.data.mixture.0.share=0.4",)
  second = "--config.data.mixture.1={'source': 'emoji', 'share': 0.6}"
  found = spec(*words, second, config=config).data.mixture
  assert [part.source for part in found] == ["emoji", "emoji"]
  assert [part.share for part in found] == [0.4, 0.6]


@pytest.mark.parametrize(
  ("setting", "said"),
  [
    ("mixture.2.share=1", "data.mixture has 2 entries, numbered from 0"),
    ("mixture.x.share=1", "data.mixture has 2 entries, numbered from 0"),
    ("mixture.0.shar=1", "did you mean 'share'"),
    ("mixture.0=3", "is a group"),
    ("mixture.0.source.x=1", "a value, not a group"),
  ],
)
def test_an_invalid_entry_is_an_error(setting, said):
  with pytest.raises(SpecError, match=said):
    spec(f"--config.data.{setting}", config="configs/chaos_embedded.py")
