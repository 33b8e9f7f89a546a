"""Meshes, shardings and the environment of CPU devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bigscale.parallel import sharding
from bigscale.parallel.mesh import check_batch, make_mesh
from bigscale.parallel.multihost import to_global
from bigscale.spec import MeshSpec, SpecError


@pytest.mark.parametrize(
  ("spec", "shape"),
  [
    (MeshSpec(), (8, 1)),
    (MeshSpec(fsdp=2), (4, 2)),
    (MeshSpec(data=2, fsdp=2), (2, 2)),
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
  ],
)
def test_impossible_meshes(spec, words):
  with pytest.raises(SpecError) as refusal:
    make_mesh(spec)
  for word in words:
    assert word in str(refusal.value)


def test_batch_must_divide():
  mesh = make_mesh(MeshSpec())
  check_batch(16, mesh)
  with pytest.raises(SpecError, match="use 96 or 104"):
    check_batch(100, mesh)
  with pytest.raises(SpecError, match=r"use 8$"):
    check_batch(3, mesh)


def test_every_leaf_needs_a_rule():
  mesh = make_mesh(MeshSpec())
  tree = {"a": {"kernel": np.zeros(8)}, "b": np.zeros(3)}
  rules = ((".*kernel", P("data")), ("b", P()))
  shardings = sharding.tree_shardings(tree, mesh, rules)
  assert shardings["a"]["kernel"].spec == P("data")
  assert shardings["b"].spec == P()
  with pytest.raises(ValueError, match="'b'"):
    sharding.tree_shardings(tree, mesh, rules[:1])


def test_rows_go_to_devices_in_order():
  mesh = make_mesh(MeshSpec(fsdp=2))
  rows = np.arange(2 * 16).reshape(2, 16)
  array = to_global(rows, sharding.batch_sharding(mesh))
  np.testing.assert_array_equal(array, rows)
  assert array.addressable_shards[0].data.shape == (2, 2)


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
