"""Tests of topology names."""

import importlib.util

import pytest

from bigscale.plan import topology
from bigscale.spec import SpecError


@pytest.mark.parametrize(
  ("name", "devices"),
  [
    ("v3:16x16", 512),
    ("v4:8x8x8", 1024),
    ("v5e:16x16", 256),
    ("v5p:8x8x8", 512),
    ("v6e:1x1", 1),
    ("2xv5e:4x8", 64),
  ],
)
def test_names(name, devices):
  found = topology.parse(name)
  assert found.name == name
  assert found.device_count == devices


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("v9:4x4", ["unknown topology 'v9:4x4'", "v5e:16x16", "v3:16x16"]),
    ("v5e", ["unknown topology 'v5e'", "FAMILY:SHAPE"]),
    ("", ["unknown topology ''"]),
    ("v5e:4x4x4", ["has 3 axes", "v5e:16x16"]),
    # libtpu would abort the process for a side of 0.
    ("v5e:0x4", ["is not a slice of a v5e pod", "16x16"]),
    ("v5e:32x32", ["is not a slice", "2xv5e:16x16"]),
    ("0xv5e:4x4", ["is not a slice"]),
  ],
)
def test_bad_names_raise_with_a_suggestion(name, words):
  with pytest.raises(SpecError) as refusal:
    topology.parse(name)
  for word in words:
    assert word in str(refusal.value)


def test_rings():
  assert topology.parse("v5e:8x16").is_ring(1)
  assert not topology.parse("v5e:8x16").is_ring(0)
  assert topology.parse("v4:4x4x8").is_ring(0)
  assert not topology.parse("v4:2x4x4").is_ring(1)
  assert not topology.parse("v3:16x16").is_ring(0)


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SpecError, match=r"pip install 'bigscale\[tpu-plan\]'"):
    topology.devices(topology.parse("v5e:4x4"))


def test_common_slices_are_valid():
  for chip in topology.CHIPS.values():
    sizes = [
      topology.parse(f"{chip.family}:{'x'.join(map(str, shape))}").device_count
      for shape in chip.slices
    ]
    assert sizes == sorted(sizes)
    assert topology.parse(chip.example).chip is chip
