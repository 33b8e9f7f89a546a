"""All formulations of the grouped convolution are the same function."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.r3gan import R3ganSpec
from bigscale.ops import grouped_conv

_OTHERS = sorted(set(grouped_conv.FORMULATIONS) - {"native"})


def _inputs(size=3, groups=2, group_in=4):
  random = np.random.RandomState(0)
  x_bhwc = random.normal(size=(2, 5, 4, group_in * groups))
  w_hwio = random.normal(size=(size, size, group_in, 6 * groups))
  return x_bhwc, w_hwio


def _derivatives(convolve, x_bhwc, w_hwio):
  """Returns the value, gradients, and gradients of a gradient penalty."""

  def value(x, w):
    return jnp.sum(jnp.sin(convolve(x, w)))

  def penalty(x, w):
    return jnp.sum(jnp.square(jax.grad(value)(x, w)))

  return (
    convolve(x_bhwc, w_hwio),
    jax.grad(value, (0, 1))(x_bhwc, w_hwio),
    jax.grad(penalty, (0, 1))(x_bhwc, w_hwio),
  )


def _all(name, groups, x_bhwc, w_hwio):
  formulation = grouped_conv.FORMULATIONS[name]

  def convolve(x, w):
    return formulation(x, w, groups)

  return jax.jit(lambda x, w: _derivatives(convolve, x, w))(x_bhwc, w_hwio)


# Six groups of 16, merged to three of 32, to two of 48 (64 at most), or one.
@pytest.mark.parametrize(("groups", "group_in"), [(1, 4), (2, 4), (6, 16)])
@pytest.mark.parametrize("name", _OTHERS)
def test_formulations_agree_to_second_order(name, groups, group_in):
  with jax.enable_x64(True):
    inputs = map(jnp.asarray, _inputs(groups=groups, group_in=group_in))
    inputs = list(inputs)
    results = [_all(form, groups, *inputs) for form in ("native", name)]
    for expected, found in zip(*map(jax.tree.leaves, results), strict=True):
      assert found.dtype == jnp.float64
      scale = np.abs(expected).max()
      np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("name", ["merged_128", "split_32", "dense"])
def test_bfloat16_results_are_close(name):
  inputs = _inputs(groups=6, group_in=16)
  exact = _all("native", 6, *(jnp.asarray(a, "float32") for a in inputs))
  half = _all(name, 6, *(jnp.asarray(a, "bfloat16") for a in inputs))
  # The last two amplify errors of sin's argument, for any formulation.
  for expected, found in zip(exact[:1], half[:1], strict=True):
    assert found.dtype == jnp.bfloat16
    error = np.abs(found.astype("float32") - expected).max()
    assert error < 0.02 * np.abs(expected).max()
  same = _all("native", 6, *(jnp.asarray(a, "bfloat16") for a in inputs))
  for expected, found in zip(*map(jax.tree.leaves, (same, half)), strict=True):
    expected, found = (np.asarray(a, "float32") for a in (expected, found))
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()


def test_merging_fills_the_width_and_no_more():
  x_bhwc, w_hwio = (
    jax.ShapeDtypeStruct(a.shape, "float32")
    for a in _inputs(groups=12, group_in=16)
  )

  def convolutions(name):
    formulation = grouped_conv.FORMULATIONS[name]
    jaxpr = jax.make_jaxpr(lambda x, w: formulation(x, w, 12))(x_bhwc, w_hwio)
    return [
      (e.params["feature_group_count"], e.invars[1].aval.shape[2])
      for e in jaxpr.eqns
      if e.primitive.name == "conv_general_dilated"
    ]

  assert convolutions("native") == [(12, 16)]
  # Eight groups would fill 128 channels, but six is a divisor of twelve.
  assert convolutions("merged_128") == [(2, 96)]
  assert convolutions("merged_256") == [(1, 192)]
  assert convolutions("per_group") == [(1, 16)] * 12
  assert convolutions("split_32") == [(1, 32)] * 6
  assert convolutions("split_64") == [(1, 64)] * 3
  assert convolutions("dense") == [(1, 192)]


def test_block_diagonal_contains_each_group():
  w_hwio = np.random.RandomState(0).normal(size=(3, 3, 2, 12))
  # Four groups of 2 x 3, merged in pairs.
  found = grouped_conv.block_diagonal(jnp.asarray(w_hwio, "float32"), 4, 2)
  assert found.shape == (3, 3, 4, 12)
  np.testing.assert_array_equal(
    found[:, :, :2, 6:9], w_hwio[..., 6:9].astype("f4")
  )
  np.testing.assert_array_equal(
    found[:, :, 2:, 9:], w_hwio[..., 9:].astype("f4")
  )
  assert not np.any(found[:, :, 2:, 6:9])
  assert not np.any(found[:, :, :2, 9:])


def test_native_is_the_sum_over_taps_of_its_group():
  x_bhwc, w_hwio = _inputs()
  found = grouped_conv.native(
    jnp.asarray(x_bhwc, "float32"), jnp.asarray(w_hwio, "float32"), 2
  )
  padded = np.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0)))
  # Output channel 7 belongs to the second group, input channels 4 to 8.
  window = padded[1, 2:5, 1:4, 4:8]
  np.testing.assert_allclose(
    found[1, 2, 1, 7], np.sum(window * w_hwio[..., 7]), rtol=1e-4
  )


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("size", [1, 3])
def test_dense_convolution_is_one_group(size, platform):
  x_bhwc, w_hwio = (
    jnp.asarray(a, "float32") for a in _inputs(size=size, groups=1)
  )
  np.testing.assert_allclose(
    grouped_conv.conv(x_bhwc, w_hwio, platform=platform),
    grouped_conv.native(x_bhwc, w_hwio, 1),
    atol=1e-5,
  )


def test_pointwise_convolutions_leave_the_layout_to_a_tpu():
  x_bhwc, w_hwio = (jnp.asarray(a, "float32") for a in _inputs(1, 1))

  def primitives(platform):
    jaxpr = jax.make_jaxpr(
      lambda x, w: grouped_conv.conv(x, w, platform=platform)
    )(x_bhwc, w_hwio)
    return {e.primitive.name for e in jaxpr.eqns}

  assert "reshape" not in primitives("tpu")
  assert "conv_general_dilated" not in primitives("cpu")


@pytest.mark.parametrize("name", sorted(grouped_conv.FORMULATIONS))
def test_groups_are_independent(name):
  x_bhwc, w_hwio = (jnp.asarray(a, "float32") for a in _inputs())
  convolve = grouped_conv.FORMULATIONS[name]
  changed = x_bhwc.at[..., :4].add(1.0)
  before, after = (convolve(x, w_hwio, 2) for x in (x_bhwc, changed))
  np.testing.assert_allclose(before[..., 6:], after[..., 6:], atol=1e-6)
  assert np.abs(before[..., :6] - after[..., :6]).max() > 0.1


def test_auto_chooses_by_platform():
  def choose(formulation, platform, side=16, group_width=16, groups=4):
    return grouped_conv.choose(formulation, platform, groups, side, group_width)

  assert choose("patches", "tpu") == "patches"
  assert choose("auto", "gpu") == "native"
  # The maximum number of convolutions in a program.
  for groups, width, name in (
    (4, 16, "split_32"),
    (64, 16, "split_32"),
    (96, 16, "split_64"),
    (96, 32, "patches"),
  ):
    assert choose("auto", "cpu", groups=groups, group_width=width) == name
  # Measured: merging saves time from 16 px for groups of 16, 8 px for 32.
  for side, width, name in (
    (16, 16, "merged_128"),
    (8, 16, "native"),
    (8, 32, "merged_128"),
    (4, 32, "native"),
  ):
    assert choose("auto", "tpu", side, width) == name


def test_every_formulation_can_be_forced_by_config():
  (field,) = (
    f
    for f in R3ganSpec.__dataclass_fields__.values()
    if f.name == "grouped_conv"
  )
  assert set(get_args(field.type)) == {"auto", *grouped_conv.FORMULATIONS}
