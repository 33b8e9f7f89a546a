"""Config errors name the value, the rule and the remedy."""

import dataclasses
import json

import pytest

from bigscale.configs import biggan, fashion_biggan, fashion_r3gan
from bigscale.models.biggan_deep import PRESETS as DEEP
from bigscale.spec import (
  SpecError,
  choose_preset,
  from_config,
  from_json,
  to_json,
)


def changed(path: str, value: object, base=fashion_r3gan) -> dict:
  """Returns the config as nested dictionaries, with one value changed."""
  config = base.get_config().to_dict()
  *groups, name = path.split(".")
  node = config
  for group in groups:
    node = node[group]
  node[name] = value
  return config


@pytest.mark.parametrize(
  ("path", "value", "words"),
  [
    ("model.nme", 1, ("config.model.nme", "did you mean 'name'")),
    ("model.name", "dcgan", ("'dcgan'", "'r3gan'", "'biggan'")),
    ("model.resolution", 24, ("24", "16 px")),
    ("model.cardinality", (7, 4, 4), ("7", "256")),
    ("model.blocks", (1, 1), ("blocks", "3")),
    ("model.image_channels", 2, ("image_channels=2", "1 or 3")),
    ("model.num_classes", 1, ("num_classes=1",)),
    ("model.bf16_stages", 9, ("bf16_stages=9", "3")),
    ("model.widths", (64.5, 3, 3), ("widths[0]=64.5", "whole number")),
    ("seed", True, ("seed=True", "whole number")),
    ("seed", -1, ("seed=-1",)),
    ("total_kimg", 0, ("total_kimg=0",)),
    ("total_kimg", "many", ("total_kimg='many'", "a number")),
    ("global_batch_size", 0, ("global_batch_size=0",)),
    ("data", "fashion", ("config.data='fashion'", "group")),
    ("data.prefetch", 0, ("prefetch=0",)),
    ("optim.beta1", 1.0, ("beta1", "[0, 1)")),
    ("optim.d_steps", 0, ("d_steps=0",)),
    ("optim.g_lr", {"first": 1.0}, ("g_lr.last is missing",)),
    ("loss.r1_gamma", -1.0, ("r1_gamma", "-1.0")),
    ("loss.adversarial", "mse", ("'mse'", "'rpgan'", "'hinge'")),
    ("loss.penalty_interval", 0, ("penalty_interval=0", "every step")),
    ("loss.label_smoothing", 0.1, ("0.1", "'rpgan'", "least_squares")),
    ("loss.label_smoothing", 0.7, ("0.7", "[0, 0.5)")),
    ("loss.g_sigma", {"clamp": -1.0}, ("g_sigma.clamp=-1.0",)),
    ("loss.g_sigma", {"clamp": 4.0}, ("spectra_interval", "from 16 to 1")),
    ("augment", {"pipe": "mixup"}, ("'mixup'", "'ada'")),
    (
      "augment",
      {"pipe": "diffaugment", "transforms": ("blit",)},
      ("'blit'", "color, translation, cutout"),
    ),
    ("augment", {"probability": 1.5}, ("1.5", "[0, 1]")),
    ("augment", {"target": 0.6}, ("target=0.6", "augment.pipe")),
    ("model.expansion", 0.3, ("expansion=0.3", "whole number")),
    ("mesh", {"data": 0}, ("mesh.data=0",)),
    ("evaluate.num_samples", 1, ("num_samples=1",)),
    ("log.steps", 0, ("log.steps=0",)),
    ("checkpoint.keep", 0, ("keep=0",)),
  ],
)
def test_refusals_name_value_rule_and_remedy(path, value, words):
  with pytest.raises(SpecError) as refusal:
    from_config(changed(path, value))
  for word in words:
    assert word in str(refusal.value)


@pytest.mark.parametrize(
  ("path", "value", "words"),
  [
    ("model.resolution", 48, ("48", "32, 64, 128")),
    ("model.latent_dim", 81, ("81", "4 equal chunks", "80")),
    ("model.g_attention", (5,), ("5 px", "8, 16, 32")),
    ("model.d_attention", (32,), ("32 px", "any of 16")),
    ("model.g_width", 0, ("g_width=0", "96")),
    ("model.num_singular_values", 0, ("num_singular_values=0",)),
  ],
)
def test_biggan_refusals(path, value, words):
  with pytest.raises(SpecError) as refusal:
    from_config(changed(path, value, fashion_biggan))
  for word in words:
    assert word in str(refusal.value)


def test_options_that_need_labels_are_refused_without_them():
  config = fashion_r3gan.get_config().to_dict()
  config["model"] |= {"num_classes": 0, "shared_embedding": True}
  with pytest.raises(SpecError, match=r"shared_embedding=True needs labels"):
    from_config(config)


def test_hierarchical_latents_must_split():
  config = fashion_r3gan.get_config().to_dict()
  config["model"] |= {"hierarchical": True, "latent_dim": 64}
  with pytest.raises(SpecError, match=r"latent_dim=64 .* 3 equal.*use 63"):
    from_config(config)


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("resolution", 32, ("32", "64, 128, 256, 512")),
    ("g_attention", (100,), ("100 px", "8, 16, 32, 64, 128")),
    ("d_attention", (128,), ("128 px",)),
    ("g_width", 6, ("g_width=6", "multiple of 4")),
    ("d_depth", 0, ("d_depth=0",)),
  ],
)
def test_biggan_deep_refusals(field, value, words):
  with pytest.raises(SpecError) as refusal:
    dataclasses.replace(DEEP["128"], **{field: value})
  for word in words:
    assert word in str(refusal.value)


def test_attention_needs_eight_channels():
  config = fashion_biggan.get_config().to_dict()
  config["model"] |= {"g_width": 1, "g_attention": (16,)}
  with pytest.raises(
    SpecError, match=r"16 px, where the map has 4 .*8 or more"
  ):
    from_config(config)


def test_an_unknown_preset_lists_the_known_ones():
  with pytest.raises(SpecError, match=r"'1024'.*128, 256, 512"):
    choose_preset(DEEP, "1024", "BigGAN-deep")


@pytest.mark.parametrize("module", [fashion_r3gan, biggan])
def test_json_round_trip(module):
  spec = from_config(module.get_config())
  assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


def test_specs_are_frozen():
  spec = from_config(fashion_r3gan.get_config())
  with pytest.raises(dataclasses.FrozenInstanceError):
    spec.seed = 1


def test_a_number_is_a_constant_schedule():
  spec = from_config(changed("optim.g_lr", 1e-4))
  assert (spec.optim.g_lr.first, spec.optim.g_lr.last) == (1e-4, 1e-4)


def test_steps_follow_from_images():
  """BigGAN shows two batches per step to D; RpGAN reads one more for G."""
  paper = from_config(biggan.get_config("128"))
  assert paper.images_per_step == 4096
  assert paper.batches_per_step == 2
  assert paper.total_steps == 150_000
  assert paper.count.every(4096.0) == 1000
  # In floating point, 22.4 * 1000 / 32 is slightly more than 700.
  small = dataclasses.replace(paper, total_kimg=22.4, global_batch_size=16)
  assert small.total_steps == 700
  assert from_config(fashion_r3gan.get_config()).batches_per_step == 2
