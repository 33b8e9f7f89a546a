"""Configs are checked at the door, by name, rule and remedy."""

import dataclasses
import json

import pytest

from bigscale.spec import SpecError, from_config, from_json, to_json
from configs import biggan_imagenet128, fashion_biggan, fashion_r3gan


def changed(path: str, value: object, base=fashion_r3gan) -> dict:
  """The config as plain dictionaries with one value changed."""
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
    ("model.g_attention", (5,), ("5 px",)),
    ("model.num_singular_values", 0, ("num_singular_values=0",)),
  ],
)
def test_biggan_refusals(path, value, words):
  with pytest.raises(SpecError) as refusal:
    from_config(changed(path, value, fashion_biggan))
  for word in words:
    assert word in str(refusal.value)


@pytest.mark.parametrize("module", [fashion_r3gan, biggan_imagenet128])
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
  """BigGAN shows two batches a step to D; RpGAN reads one more for G."""
  paper = from_config(biggan_imagenet128.get_config())
  assert paper.images_per_step == 4096
  assert paper.batches_per_step == 2
  assert paper.total_steps == 150_000
  assert paper.every(4096.0) == 1000
  assert from_config(fashion_r3gan.get_config()).batches_per_step == 2
