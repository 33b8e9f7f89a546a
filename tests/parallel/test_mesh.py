"""Meshes, shardings and the environment of CPU devices."""

import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from bigscale.parallel import sharding
from bigscale.parallel.mesh import AXES, check_batch, make_mesh
from bigscale.parallel.rows import local_rows, to_global
from bigscale.plan import topology
from bigscale.spec import MeshSpec, SpecError


@pytest.mark.parametrize(
  ("spec", "shape"),
  [
    (MeshSpec(), (8, 1)),
    (MeshSpec(fsdp=2), (4, 2)),
    (MeshSpec(data=2, fsdp=2), (2, 2)),
    (MeshSpec(fsdp=2, slices=2), (4, 2)),
  ],
)
def test_axes(spec, shape):
  mesh = make_mesh(spec)
  assert mesh.axis_names == ("data", "fsdp")
  assert mesh.devices.shape == shape
  assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    (MeshSpec(data=16), ("16", "8")),
    (MeshSpec(fsdp=3), ("mesh.fsdp=3", "8 devices")),
    (MeshSpec(fsdp=16), ("mesh.fsdp=16", "8 devices", "divisor")),
    (MeshSpec(fsdp=8, slices=2), ("mesh.fsdp=8 would span", "4 devices")),
    (MeshSpec(fsdp=3, slices=2), ("mesh.fsdp=3", "4 devices of a slice")),
    (MeshSpec(slices=3), ("mesh.slices=3", "8 CPU devices", "divisor of 8")),
    (MeshSpec(data=2, slices=2), ("leaves some of 8", "mesh.data=-1")),
  ],
)
def test_impossible_meshes(spec, words):
  with pytest.raises(SpecError) as refusal:
    make_mesh(spec)
  for word in words:
    assert word in str(refusal.value)


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"slices": 0}, "mesh.slices=0"),
    ({"data": 3, "slices": 2}, "mesh.data=3 is not divisible by mesh.slices=2"),
  ],
)
def test_impossible_settings(settings, words):
  with pytest.raises(SpecError, match=words):
    MeshSpec(**settings)


def chips(name):
  """Returns devices of a topology description."""
  pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
  return topology.devices(topology.parse(name))


def steps_between(a, b, sides):
  """Returns the number of links between two chips on a torus."""
  pairs = zip(a.coords, b.coords, sides, strict=False)
  return sum(min(abs(x - y), n - abs(x - y)) for x, y, n in pairs)


@pytest.mark.parametrize(
  ("name", "fsdp", "sides"),
  [
    ("v5e:16x16", 16, (16, 16)),
    ("v5p:4x4x4", 4, (4, 4, 4)),
    # A chip has two cores, so every other step stays on the chip.
    ("v4:4x4x4", 8, (4, 4, 4)),
  ],
)
def test_groups_are_rings_of_the_torus(name, fsdp, sides):
  devices = chips(name)
  mesh = make_mesh(MeshSpec(fsdp=fsdp), devices)
  assert set(mesh.devices.flat) == set(devices)
  for group in mesh.devices:
    ring = [*group, group[0]]
    steps = [steps_between(a, b, sides) for a, b in itertools.pairwise(ring)]
    assert max(steps) == 1
    assert sum(steps) in (fsdp, fsdp // 2)


@pytest.mark.parametrize("fsdp", [1, 2, 8, 128])
def test_cores_of_a_chip_stay_together(fsdp):
  """A v4 topology description has two cores per chip, which JAX rejects."""
  devices = chips("v4:4x4x4")
  grid = make_mesh(MeshSpec(fsdp=fsdp), devices).devices
  assert grid.shape == (128 // fsdp, fsdp)
  assert set(grid.flat) == set(devices)
  pairs = grid.reshape(-1, 2)
  assert all(a.coords == b.coords for a, b in pairs)


def test_only_data_crosses_slices():
  mesh = make_mesh(MeshSpec(fsdp=8), chips("2xv5e:4x4"))
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  np.testing.assert_array_equal(slices, [[0] * 8] * 2 + [[1] * 8] * 2)


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    (MeshSpec(fsdp=32), ("mesh.fsdp=32 would span slices", "use 16")),
    (MeshSpec(slices=4), ("mesh.slices=4", "2 slice", "mesh.slices=-1")),
    (MeshSpec(data=2, fsdp=8), ("leaves some of 32 devices idle",)),
  ],
)
def test_impossible_meshes_of_slices(spec, words):
  devices = chips("2xv5e:4x4")
  with pytest.raises(SpecError) as refusal:
    make_mesh(spec, devices)
  for word in words:
    assert word in str(refusal.value)


def test_slices_have_the_same_size():
  devices = chips("2xv5e:4x4")[:-1]
  with pytest.raises(SpecError, match="different sizes"):
    make_mesh(MeshSpec(), devices)


def test_rows_of_hosts_on_a_torus():
  """A host's 2 x 2 chips are in two rings, so it has two ranges of rows."""
  mesh = make_mesh(MeshSpec(fsdp=16), chips("v5e:16x16"))
  where = sharding.batch_sharding(mesh)
  rows = [local_rows(where, 512, process) for process in range(64)]
  np.testing.assert_array_equal(rows[0], [0, 1, 2, 3, 32, 33, 34, 35])
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(512))


def test_a_process_without_devices():
  mesh = make_mesh(MeshSpec())
  with pytest.raises(SpecError, match="process 7 has no device in the mesh"):
    local_rows(sharding.batch_sharding(mesh), 16, 7)


def test_batch_must_divide():
  mesh = make_mesh(MeshSpec())
  check_batch(16, mesh)
  with pytest.raises(SpecError, match="use 96 or 104"):
    check_batch(100, mesh)
  with pytest.raises(SpecError, match=r"use 8$"):
    check_batch(3, mesh)


def test_rows_go_to_devices_in_order():
  mesh = make_mesh(MeshSpec(fsdp=2))
  rows = np.arange(2 * 16).reshape(2, 16)
  array = to_global(rows, sharding.batch_sharding(mesh))
  np.testing.assert_array_equal(array, rows)
  assert array.addressable_shards[0].data.shape == (2, 2)


def test_rows_do_not_depend_on_the_order_of_devices():
  devices = np.random.default_rng(0).permutation(jax.devices())
  mesh = Mesh(devices.reshape(4, 2), AXES)
  rows = np.arange(2 * 16 * 3).reshape(2, 16, 3)
  array = to_global(rows, sharding.batch_sharding(mesh))
  np.testing.assert_array_equal(array, rows)


def test_environment_keeps_what_the_user_set():
  code = (
    "from bigscale.parallel.environment import prepare_cpu; prepare_cpu(8);"
    "import os, sys; print(os.environ['PJRT_NPROC'], os.environ['XLA_FLAGS']);"
    "print('jax' in sys.modules)"
  )
  env = os.environ | {
    "XLA_FLAGS": "--xla_cpu_collective_timeout_seconds=7",
    "PJRT_NPROC": "32",
  }
  out = subprocess.run(
    [sys.executable, "-c", code],
    env=env,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert "32 --xla_cpu_collective_timeout_seconds=7 " in out
  assert "device_count=8" in out
  assert out.strip().endswith("False")


def test_suite_has_eight_devices():
  assert jax.device_count() == 8
