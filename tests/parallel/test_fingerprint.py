"""Fingerprints do not depend on the mesh and detect damage in any dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigscale.parallel import fingerprint
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec


def put(values, mesh, spec):
  return jax.device_put(values, NamedSharding(mesh, spec))


def mesh_of(data, fsdp):
  devices = jax.devices()[: data * fsdp]
  return make_mesh(MeshSpec(data=data, fsdp=fsdp), devices)


VALUES = {
  "float": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32),
  "half": np.arange(32, dtype=np.float32).astype(jnp.bfloat16).reshape(4, 8),
  "count": np.int32(7),
  "bytes": np.arange(16, dtype=np.uint8),
  "flags": np.array([True, False, True, True]),
}
ONE = {name: PartitionSpec() for name in VALUES}


def on(mesh, specs=ONE, values=VALUES):
  return {name: put(values[name], mesh, specs[name]) for name in values}


@pytest.mark.parametrize("shape", [(2, 1), (1, 4), (2, 4)])
def test_fingerprints_do_not_depend_on_the_mesh(shape):
  expected = fingerprint.fingerprints(on(mesh_of(1, 1)))
  split = {
    **ONE,
    "float": PartitionSpec(None, "fsdp"),
    "half": PartitionSpec("fsdp"),
  }
  assert fingerprint.fingerprints(on(mesh_of(*shape), split)) == expected
  rows = {**ONE, "float": PartitionSpec("fsdp", "data")}
  assert fingerprint.fingerprints(on(mesh_of(*shape), rows)) == expected
  assert list(expected) == [f"['{name}']" for name in sorted(VALUES)]


def reference(values):
  """Computes the definition with Python integers."""

  def mix(x):
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
    return x ^ (x >> 16)

  bits = values.ravel().view(np.uint32).tolist()
  sums = [
    sum(mix(mix((n + c) % 2**32) ^ word) for n, word in enumerate(bits)) % 2**32
    for c in (0x9E3779B1, 0x85EBCA77)
  ]
  return "".join(f"{part:08x}" for part in sums)


def test_fingerprints_match_the_definition():
  found = fingerprint.fingerprints(on(mesh_of(2, 2)))
  assert found["['float']"] == reference(VALUES["float"])


def flipped(values, places, bit):
  words = values.copy().ravel().view(np.uint32)
  words[places] ^= np.uint32(1 << bit)
  return words.view(np.float32).reshape(values.shape)


@pytest.mark.parametrize(
  ("places", "bit"), [([3], 0), ([3], 31), ([3, 90], 31), ([0, 1], 30)]
)
def test_flipped_bits_are_detected(places, bit):
  """Also two flipped signs, which a weighted sum of bits would miss."""
  mesh = mesh_of(1, 1)
  before = fingerprint.fingerprints(on(mesh))
  values = {**VALUES, "float": flipped(VALUES["float"], places, bit)}
  after = fingerprint.fingerprints(on(mesh, values=values))
  assert fingerprint.differences(before, after) == ["['float']"]


def test_swapped_elements_are_detected():
  mesh = mesh_of(1, 1)
  swapped = VALUES["float"].copy()
  swapped[0, 0], swapped[5, 5] = swapped[5, 5], swapped[0, 0]
  before = fingerprint.fingerprints(on(mesh))
  after = fingerprint.fingerprints(
    on(mesh, values={**VALUES, "float": swapped})
  )
  assert before != after


def test_a_replica_that_differs_is_named():
  mesh = mesh_of(2, 2)
  sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
  whole = VALUES["float"]
  index_of = sharding.addressable_devices_indices_map(whole.shape)
  ill = mesh.devices[1, 0]
  parts = [
    jax.device_put(
      flipped(whole[index], [2], 5) if device == ill else whole[index], device
    )
    for device, index in index_of.items()
  ]
  array = jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)
  with pytest.raises(fingerprint.ReplicaError) as caught:
    fingerprint.fingerprints({"w": array, "ok": on(mesh)["half"]})
  message = str(caught.value)
  healthy = mesh.devices[0, 0]
  assert "['w'][8, 16] on devices" in message
  assert f"{healthy.id} (process 0), {ill.id} (process 0)" in message
  assert "['ok']" not in message


def test_a_missing_array_is_a_difference():
  assert fingerprint.differences({"a": "1", "b": "2"}, {"b": "2"}) == ["a"]


def test_arrays_without_a_mesh_have_the_same_fingerprint():
  values = {**VALUES, "half": jnp.asarray(VALUES["half"])}
  assert fingerprint.fingerprints(values) == fingerprint.fingerprints(
    on(mesh_of(2, 2))
  )
