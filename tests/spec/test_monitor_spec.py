"""Settings of the monitor are validated when the spec is built."""

import json

import pytest

from bigscale.configs import fashion_biggan, fashion_r3gan
from bigscale.spec import SpecError, from_config, from_json, to_json


def changed(monitor, base=fashion_r3gan, **others):
  config = base.get_config().to_dict()
  config["monitor"] = monitor
  for group, values in others.items():
    config[group] = {**config[group], **values}
  return config


ROLLBACK = {"action": "rollback"}


@pytest.mark.parametrize(
  ("monitor", "words"),
  [
    ({"action": "panic"}, ("'panic'", "'rollback'", "'checkpoint'")),
    ({"intervall": 5}, ("config.monitor.intervall", "did you mean")),
    ({"interval": 0}, ("monitor.interval=0", "1 or more")),
    ({"num_samples": 0}, ("monitor.num_samples=0",)),
    ({"num_samples": 1}, ("monitor.num_samples=1", "2 or more", "diversity")),
    ({"snapshot_interval": 0}, ("monitor.snapshot_interval=0", "1 or more")),
    ({"snapshots": 0}, ("monitor.snapshots=0", "1 or more")),
    ({"keep": 0}, ("monitor.keep=0", "1 or more")),
    ({"max_host_gib": -1.0}, ("monitor.max_host_gib=-1.0", "negative")),
    ({"retries": -1}, ("monitor.retries=-1", "negative")),
    ({"rewind": -5}, ("monitor.rewind=-5", "negative")),
    ({"data": "again"}, ("'again'", "'skip'", "'replay'")),
    ({"lr_factor": 0.0}, ("monitor.lr_factor=0.0", "(0, 1]")),
    ({"lr_factor": 1.5}, ("monitor.lr_factor=1.5", "(0, 1]")),
    ({"gamma_factor": 0.5}, ("monitor.gamma_factor=0.5", "1 or more")),
    ({"sigma_factor": 0.9}, ("monitor.sigma_factor=0.9", "1 or more")),
    (
      ROLLBACK | {"interventions": ("pray",)},
      ("'pray'", "'lower_lr'", "'older_d'"),
    ),
    (
      {"action": "checkpoint", "interventions": ("ema_to_g",)},
      ("ema_to_g", "'checkpoint'", "set monitor.action to 'rollback'"),
    ),
    (
      ROLLBACK | {"interventions": ("older_d",), "snapshots": 1},
      ("older_d", "monitor.snapshots", "2 or more", "=1"),
    ),
    (
      ROLLBACK | {"interventions": ("clamp_sigma",)},
      ("clamp_sigma", "spectra_interval", "to 1"),
    ),
  ],
)
def test_refusals_name_value_rule_and_remedy(monitor, words):
  with pytest.raises(SpecError) as refusal:
    from_config(changed(monitor))
  for word in words:
    assert word in str(refusal.value)


@pytest.mark.parametrize(
  ("verdict", "words"),
  [
    ({"warmup": -1}, ("monitor.verdict.warmup=-1", "negative")),
    ({"quiet": -1}, ("monitor.verdict.quiet=-1", "negative")),
    ({"warn_rows": 5.0}, ("monitor.verdict.warn_rows=5.0", "at least 100")),
    (
      {"rollback_rows": 5000.0},
      ("monitor.verdict.rollback_rows=5000.0", "warn_rows=10000", "100000"),
    ),
    (
      {"smallest_rise": 0.0},
      ("monitor.verdict.smallest_rise=0.0", "(0, 10]", "10%"),
    ),
    ({"level": 1}, ("config.monitor.verdict.level",)),
  ],
)
def test_refusals_of_the_verdict(verdict, words):
  with pytest.raises(SpecError) as refusal:
    from_config(changed({"verdict": verdict}))
  for word in words:
    assert word in str(refusal.value)


def test_raise_gamma_needs_a_gamma():
  monitor = ROLLBACK | {"interventions": ("raise_gamma",)}
  from_config(changed(monitor))
  with pytest.raises(SpecError, match=r"raise_gamma.*r1_gamma.*are 0"):
    from_config(changed(monitor, fashion_biggan))


def test_clamp_sigma_needs_sigma_in_every_step():
  monitor = ROLLBACK | {"interventions": ("clamp_sigma",)}
  # BigGAN's spectral norm tracks it in every step.
  assert from_config(changed(monitor, fashion_biggan)).clamps_sigma
  spec = from_config(changed(monitor, model={"spectra_interval": 1}))
  assert spec.clamps_sigma
  assert not from_config(changed({})).clamps_sigma


def test_json_round_trip():
  monitor = ROLLBACK | {
    "interventions": ("lower_lr", "older_d"),
    "rewind": 7,
    "data": "replay",
    "verdict": {"warmup": 3, "warn_rows": 2500.0},
  }
  spec = from_config(changed(monitor))
  assert spec.monitor.interventions == ("lower_lr", "older_d")
  assert spec.monitor.verdict.warmup == 3
  assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
