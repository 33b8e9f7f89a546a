"""Invalid batch and group sizes are rejected before anything is compiled."""

import dataclasses

import jax
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import SpecError
from bigscale.train.build import build
from tests.parallel.tiny_gans import Case, spec_of


def refusal(case):
  spec = spec_of(case)
  devices = jax.devices()[: case.mesh[0] * case.mesh[1]]
  with pytest.raises(SpecError) as refused:
    build(spec, make_mesh(spec.mesh, devices))
  return str(refused.value)


def test_microbatches_divide_a_devices_samples():
  message = refusal(Case("r3gan", "float32", (8, 1), microbatches=4))
  assert "optim.microbatches=4" in message
  assert "2 samples on each of 8 devices" in message
  assert "use a divisor of 2" in message


def test_groups_stay_on_a_device_with_microbatches():
  case = Case("biggan", "float32", (8, 1), microbatches=2, group=2)
  message = refusal(case)
  assert "model.batch_norm_group_size=2" in message
  assert "microbatch of 1 samples" in message


def test_groups_are_whole_devices_or_parts_of_one():
  # Sixteen samples in groups of eight, with four and sixteen per device.
  for mesh in ((4, 1), (1, 1)):
    spec = spec_of(Case("biggan", "float32", mesh, group=8))
    build(spec, make_mesh(spec.mesh, jax.devices()[: mesh[0]]))
  with pytest.raises(SpecError, match="batch_norm_group_size=6"):
    spec_of(Case("biggan", "float32", group=6))


def test_batches_are_whole_microbatches():
  spec = spec_of(Case("r3gan", "float32"))
  optim = dataclasses.replace(spec.optim, microbatches=3)
  with pytest.raises(SpecError, match="use global_batch_size=15"):
    dataclasses.replace(spec, optim=optim)


@pytest.mark.parametrize(
  ("case", "devices", "parts"),
  [
    (Case("r3gan", device_batch=4), 8, 1),
    (Case("r3gan", device_batch=4), 4, 1),
    (Case("r3gan", device_batch=4), 2, 2),
    (Case("r3gan", device_batch=3), 1, 8),
    (Case("r3gan", device_batch=8, microbatches=2), 1, 2),
    (Case("r3gan", device_batch=4, microbatches=2), 1, 4),
    # A group of four stays on one device.
    (Case("biggan", group=4, device_batch=6), 1, 4),
  ],
)
def test_microbatches_follow_the_devices(case, devices, parts):
  assert spec_of(case).microbatches_on(devices) == parts


@pytest.mark.parametrize(
  ("case", "said"),
  [
    (Case("r3gan", device_batch=-1), "device_batch=-1 must not be negative"),
    (Case("biggan", group=4, device_batch=2), r"too small.*use 4 or more"),
    (Case("biggan", device_batch=4), "set model.batch_norm_group_size"),
    (
      Case("biggan", group=4, device_batch=4, update="forward"),
      "model.spectral_update='forward' so would the numbers; use 'step'",
    ),
  ],
)
def test_a_limit_that_changes_the_numbers_is_refused(case, said):
  with pytest.raises(SpecError, match=said):
    spec_of(case).microbatches_on(1)
