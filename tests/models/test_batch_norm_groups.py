"""Batch norm over the whole batch and groups, on one and several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from bigscale.models.norms import BatchNorm, Moments
from bigscale.parallel.mesh import AXES, make_mesh
from bigscale.spec import MeshSpec, SpecError
from bigscale.types import BatchSplit

BATCH, CHANNELS = 16, 3


def _maps():
  random = np.random.RandomState(0)
  drift = np.arange(BATCH).reshape(-1, 1, 1, 1) / 5
  return (random.normal(size=(BATCH, 2, 2, CHANNELS)) + drift).astype("f4")


def _by_hand(x, size):
  """Returns normalized maps, and averages of group means and variances.

  The variances are unbiased.
  """
  groups = x.reshape(-1, size, *x.shape[1:])
  mean = groups.mean((1, 2, 3), keepdims=True)
  var = groups.var((1, 2, 3), keepdims=True)
  y = ((groups - mean) / np.sqrt(var + 1e-4)).reshape(x.shape)
  unbiased = groups.var((1, 2, 3), ddof=1).mean(0)
  return y, groups.mean((1, 2, 3)).mean(0), unbiased


def _apply(norm, x):
  stats = {"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)}
  y, changed = norm.apply(
    {"batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  return y, changed["batch_stats"]


@pytest.mark.parametrize("size", [2, 4, 8, 16])
@pytest.mark.parametrize("fsdp", [1, 2])
def test_groups_are_the_same_on_one_device_and_eight(size, fsdp):
  """Two samples per device: groups span one, two, four or all devices."""
  x = _maps()
  y, mean, var = _by_hand(x, size)
  group = 0 if size == BATCH else size
  whole = BatchNorm(0.0, 1e-4, Moments(group))
  split = BatchNorm(0.0, 1e-4, Moments(group, BatchSplit(AXES, 8)))

  def here(x):
    y, stats = _apply(split, x)
    return y, lax.pmean(stats, AXES)

  spread = jax.shard_map(
    here,
    mesh=make_mesh(MeshSpec(data=8 // fsdp, fsdp=fsdp)),
    in_specs=P(AXES),
    out_specs=(P(AXES), P()),
    check_vma=False,
  )
  for found, stats in (_apply(whole, x), jax.jit(spread)(x)):
    np.testing.assert_allclose(found, y, atol=2e-5)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)


@pytest.mark.parametrize(
  ("size", "here", "devices"), [(3, 16, 1), (4, 6, 8), (6, 2, 8), (3, 2, 8)]
)
def test_other_sizes_are_refused(size, here, devices):
  moments = Moments(size, BatchSplit(AXES, devices))
  with pytest.raises(SpecError, match=f"batch_norm_group_size={size}.*use"):
    moments.samples(here)


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize("devices", [1, 2])
def test_passes_side_by_side_are_passes_in_turn(group, devices):
  """Each pass has its own statistics and updates the running ones in order."""
  passes, momentum = 3, 0.9
  x = np.stack([(i + 1) * _maps() + i for i in range(passes)])
  stats = {"mean": jnp.zeros(CHANNELS), "var": jnp.ones(CHANNELS)}
  split = BatchSplit(AXES, devices)
  mutable = ["batch_stats"]

  def here(x_pbhwc):
    one = BatchNorm(momentum, 1e-4, Moments(group, split))
    all_of_them = BatchNorm(momentum, 1e-4, Moments(group, split, passes))
    flat = x_pbhwc.reshape(-1, *x_pbhwc.shape[2:])
    y, together = all_of_them.apply(
      {"batch_stats": stats}, flat, train=True, mutable=mutable
    )
    moved, expected = {"batch_stats": stats}, []
    for x_bhwc in x_pbhwc:
      found, moved = one.apply(moved, x_bhwc, train=True, mutable=mutable)
      expected.append(found)
    found = jax.tree.map(lambda leaf: lax.pmean(leaf, AXES), (together, moved))
    return y.reshape(x_pbhwc.shape), jnp.stack(expected), found

  spread = jax.shard_map(
    here,
    mesh=make_mesh(MeshSpec(data=devices), jax.devices()[:devices]),
    in_specs=P(None, AXES),
    out_specs=(P(None, AXES), P(None, AXES), P()),
    check_vma=False,
  )
  y, expected, (together, moved) = jax.jit(spread)(x)
  np.testing.assert_allclose(y, expected, atol=2e-5)
  for leaf, other in zip(
    jax.tree.leaves(together), jax.tree.leaves(moved), strict=True
  ):
    np.testing.assert_allclose(leaf, other, rtol=1e-5)
    assert not np.allclose(leaf, 0)
