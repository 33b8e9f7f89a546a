"""Tests the product count of programs with known products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from bigscale.scaling import jaxpr_flops


def _flops(function, *arguments):
  return jaxpr_flops.of_call(jax.jit(function), *arguments).flops


def _matrix(rows, columns):
  return jax.ShapeDtypeStruct((rows, columns), jnp.float32)


def _convolution(inputs, **options):
  """Returns a 3x3 convolution from 8 to 4 channels, and its arguments."""
  x = jax.ShapeDtypeStruct((1, inputs, inputs, 8), jnp.float32)
  groups = options.get("feature_group_count", 1)
  w = jax.ShapeDtypeStruct((3, 3, 8 // groups, 4), jnp.float32)

  def conv(x, w):
    return lax.conv_general_dilated(
      x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )

  return conv, x, w


def test_a_matrix_product_counts_two_flop_per_multiply_add():
  assert _flops(jnp.matmul, _matrix(3, 5), _matrix(5, 7)) == 210


@pytest.mark.parametrize(
  ("stride", "groups", "taps", "depth"),
  # Three taps per position along an axis, minus those beyond the border.
  [(1, 1, 22, 8), (2, 1, 11, 8), (1, 4, 22, 2)],
)
def test_a_convolution(stride, groups, taps, depth):
  conv = _convolution(
    8,
    window_strides=(stride, stride),
    padding="SAME",
    feature_group_count=groups,
  )
  assert _flops(*conv) == 2 * taps**2 * 4 * depth


def test_zeros_between_pixels_are_free():
  conv = _convolution(
    4, window_strides=(1, 1), padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)
  )
  # Three taps per pixel of the smaller map along an axis, minus those beyond
  # the border: 1 + 2 + 1 + 2 + 1 + 2 + 1 + 1.
  assert _flops(*conv) == 2 * 11**2 * 8 * 4


def test_loops_count_per_iteration_and_conditionals_their_larger_branch():
  def run(x):
    x, _ = lax.scan(lambda carry, _: (carry @ carry, None), x, length=5)
    return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert _flops(run, _matrix(3, 3)) == (5 + 2) * 54


def test_all_devices_count():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
  run = jax.shard_map(
    lambda x, w: x @ w,
    mesh=mesh,
    in_specs=(P("data"), P()),
    out_specs=P("data"),
  )
  assert _flops(run, _matrix(8, 5), _matrix(5, 7)) == 2 * 8 * 5 * 7


def test_gradients_count():
  def loss(x, w):
    return jnp.sum(jnp.square(x @ w))

  run = jax.grad(loss, (0, 1))
  assert _flops(run, _matrix(3, 5), _matrix(5, 7)) == 3 * 210
