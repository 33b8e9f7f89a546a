"""Invalid values are rejected when the spec is built."""

import copy
import math

import pytest

from bigscale.cli.main import main
from bigscale.spec import SpecError, from_config
from tests.e2e import tiny
from tests.scaling import tiny_runs

NUMBERS = (
  "total_kimg",
  "optim.epsilon",
  "optim.beta1",
  "optim.g_lr",
  "optim.ema_decay",
  "optim.ema_half_life_kimg",
  "optim.ema_start_kimg",
  "loss.r1_gamma",
  "loss.gradient_penalty",
  "loss.g_sigma.goal",
  "evaluate.kimg",
  "log.samples_kimg",
  "checkpoint.kimg",
  "data.max_bad_fraction",
  "augment.target_kimg",
  "augment.probability",
  "operations.hang_seconds",
  "operations.pause_factor",
  "monitor.max_host_gib",
  "monitor.lr_factor",
  "monitor.verdict.rollback_rows",
  "monitor.verdict.smallest_rise",
)


def spec(path, value, settings=None):
  settings = copy.deepcopy(settings or tiny.get_config().to_dict())
  *groups, last = path.split(".")
  below = settings
  for group in groups:
    below = below.setdefault(group, {})
  below[last] = value
  return from_config(settings)


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_nonfinite_values_are_refused(path, value):
  with pytest.raises(
    SpecError, match=rf"{path}.*=(nan|-?inf) must be a finite"
  ):
    spec(path, value)


@pytest.mark.parametrize("path", NUMBERS)
def test_negative_values_are_refused(path):
  with pytest.raises(SpecError, match=rf"{path.rpartition('.')[2]}"):
    spec(path, -1.0)


@pytest.mark.parametrize(
  ("path", "value", "words"),
  [
    ("optim.epsilon", 0.0, "must be positive; 1e-8 is usual"),
    ("total_kimg", 1e11, "steps are counted up to 2\\^31"),
    ("total_kimg", 1e300, "must lie between 0 and 1e\\+12"),
    ("checkpoint.kimg", 1e13, "must lie between 0 and"),
    ("mesh.min_split_elements", -1, "must not be negative"),
    ("evaluate.classifier_steps", 0, "must be 1 or more, or None"),
    ("optim.ema_half_life_kimg", {"first": 1.0, "last": -1.0}, "negative"),
    ("optim.g_lr", {"first": 1e-3, "last": math.nan}, "last=nan must be a"),
    ("optim.g_lr", {"first": 1e-3, "last": 0.0, "kimg": 1e20}, "between"),
    ("model.spectra_interval", -1, "must be 1"),
    ("model.expansion", -2.0, "expansion"),
  ],
)
def test_other_invalid_values(path, value, words):
  with pytest.raises(SpecError, match=words):
    spec(path, value)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("batch_norm_epsilon", -1e-4),
    ("batch_norm_momentum", 1.5),
    ("spectral_epsilon", math.nan),
  ],
)
@pytest.mark.parametrize("model", [tiny_runs.BIGGAN, tiny_runs.DEEP])
def test_invalid_values_of_models(model, name, value):
  with pytest.raises(SpecError, match=name):
    spec(f"model.{name}", value, tiny.get_config().to_dict() | {"model": model})


def test_zero_keeps_its_meaning():
  for path in ("checkpoint.kimg", "evaluate.kimg", "optim.ema_half_life_kimg"):
    spec(path, 0.0)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**40, 10**20])
def test_a_seed_beyond_the_range_is_refused(seed, capsys):
  assert main(["bigscale", "sample", "--workdir=x", f"--seed={seed}"]) == 2
  said = capsys.readouterr().err
  assert str(seed) in said
  assert "Traceback" not in said


@pytest.mark.parametrize(
  "override",
  [
    "checkpoint.kimg=-1.0",
    "evaluate.kimg=-0.5",
    "optim.ema_half_life_kimg=-1.0",
    "total_kimg=inf",
    "total_kimg=nan",
  ],
)
def test_the_command_reports_one_message(override, tmp_path, capsys):
  words = [f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}"]
  assert main(["bigscale", "train", *words, f"--config.{override}"]) == 2
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert override.partition("=")[0] in said
  assert not (tmp_path / "run").exists()
