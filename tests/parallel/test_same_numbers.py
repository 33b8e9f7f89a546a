"""Training agrees on any mesh, in any mode and with microbatches.

The fast tier covers pairs of settings, the slow tier all combinations. In
float64, agreement to 1e-8 shows that the logic is right. In float32, metrics
agree to 1e-4, or to three times the effect of reordering the samples.
"""

import itertools

import numpy as np
import pytest

from tests.parallel.tiny_gans import (
  STEPS,
  Case,
  learned,
  moments_differ_by,
  trained,
  worst,
)

MESHES = ((2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (1, 8))
FAST = (
  # The limit makes two microbatches of the two samples on each device.
  Case("r3gan_small", mesh=(8, 1), device_batch=1),
  Case("r3gan_small", mesh=(4, 2), weights="zero"),
  Case("r3gan_small", mesh=(2, 4), weights="fsdp", microbatches=2),
  # The default setting: each forward pass updates spectra and statistics.
  Case(
    "biggan_small", mesh=(2, 2), weights="zero", d_steps=1, update="forward"
  ),
)
# Programs that are compiled fast take seconds per step.
FAST_STEPS = 4


def all_cases():
  """Returns the fast cases; the others are marked slow."""
  yield from FAST
  for mesh, weights, parts in itertools.product(
    MESHES, ("replicated", "zero", "fsdp"), (1, 2)
  ):
    if weights != "replicated" and mesh[1] == 1:
      continue
    # These groups stay on one device, so microbatches do not change results.
    group = 2 if parts == 2 else 0
    if fits(mesh, parts, group):
      yield Case("biggan", "float64", mesh, weights, parts, group)
    yield Case("biggan", "float64", mesh, weights, parts, update="forward")
    yield Case("r3gan", "float64", mesh, weights, parts)


def fits(mesh, parts, group):
  here = 16 // (mesh[0] * mesh[1])
  return parts == 1 or here % (parts * group) == 0


def params():
  for case in dict.fromkeys(all_cases()):
    marks = () if case in FAST else pytest.mark.slow
    name = f"{case.name}-{case.update}"
    yield pytest.param(case, marks=marks, id=name)


@pytest.mark.parametrize("case", list(params()))
def test_float64_agrees(case):
  """Shows that results do not depend on how samples and weights are split."""
  steps = FAST_STEPS if case in FAST else STEPS
  if case.model == "biggan_small":
    steps = 2  # A step takes seconds.
  rows, state = trained(case.reference, steps)
  other_rows, other_state = trained(case, steps)
  assert worst(rows, other_rows) < 1e-8
  assert worst(learned(state), learned(other_state)) < 1e-8
  assert moments_differ_by(state, other_state) < 1e-8


def slow(case):
  name = f"{case.model}-{case.weights}"
  return pytest.param(case, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize(
  "case",
  [
    slow(Case("r3gan", "float32", (4, 1))),
    slow(Case("r3gan", "float32", (4, 2), "fsdp")),
    slow(Case("biggan", "float32", (8, 1))),
    slow(Case("biggan", "float32", (4, 2), "zero")),
  ],
)
def test_float32_metrics_agree(case, record_property):
  rows, _ = trained(case.reference)
  other_rows, _ = trained(case)
  difference = [worst(*pair) for pair in zip(rows, other_rows, strict=True)]
  record_property("difference", max(difference))
  if max(difference) >= 1e-4:
    permuted_rows, _ = trained(case.reference._replace(permuted=True))
    spread = [worst(*pair) for pair in zip(rows, permuted_rows, strict=True)]
    record_property("spread", max(spread))
    assert max(difference) < 3 * max(spread), (difference, spread)


def test_everything_changes():
  """Otherwise, agreement would mean nothing."""
  rows, state = trained(Case("r3gan_small"), FAST_STEPS)
  assert len({float(row["d/loss"]) for row in rows}) == len(rows)
  assert rows[0]["d/loss"].dtype == np.float64
  assert len({float(row["aug/p"]) for row in rows}) > 1
  assert rows[-1]["d/r1"] != rows[0]["d/r1"]
  # The half-life is 20 images, and a batch has 16.
  assert np.isclose(rows[0]["ema/decay"], 0.5 ** (16 / 20))
  assert 0 < worst(state.ema.params, state.g.params) < 1
