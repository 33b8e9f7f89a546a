"""Every formulation of the grouped convolution is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.ops import grouped_conv

_OTHERS = sorted(set(grouped_conv.FORMULATIONS) - {"native"})


def _inputs(size=3, groups=2):
  random = np.random.RandomState(0)
  x_bhwc = random.normal(size=(2, 5, 4, 4 * groups))
  w_hwio = random.normal(size=(size, size, 4, 6 * groups))
  return x_bhwc, w_hwio


def _derivatives(convolve, x_bhwc, w_hwio):
  """Value, gradients, and the gradients of a gradient penalty."""

  def value(x, w):
    return jnp.sum(jnp.sin(convolve(x, w)))

  def penalty(x, w):
    return jnp.sum(jnp.square(jax.grad(value)(x, w)))

  return (
    convolve(x_bhwc, w_hwio),
    jax.grad(value, (0, 1))(x_bhwc, w_hwio),
    jax.grad(penalty, (0, 1))(x_bhwc, w_hwio),
  )


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("name", _OTHERS)
def test_formulations_agree_to_second_order(name, groups, monkeypatch):
  # Six groups of four are merged to three of eight.
  monkeypatch.setattr(grouped_conv, "_MERGED_WIDTH", 8)
  with jax.enable_x64(True):
    x_bhwc, w_hwio = map(jnp.asarray, _inputs(groups=groups))
    results = [
      jax.jit(
        lambda x, w, f=grouped_conv.FORMULATIONS[form]: _derivatives(
          lambda x, w: f(x, w, groups), x, w
        )
      )(x_bhwc, w_hwio)
      for form in ("native", name)
    ]
    for expected, found in zip(*map(jax.tree.leaves, results), strict=True):
      assert found.dtype == jnp.float64
      np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_native_is_the_sum_over_taps_of_its_group():
  x_bhwc, w_hwio = _inputs()
  found = grouped_conv.native(
    jnp.asarray(x_bhwc, "float32"), jnp.asarray(w_hwio, "float32"), 2
  )
  padded = np.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0)))
  # Output channel 7 is in the second group, input channels 4 to 8.
  window = padded[1, 2:5, 1:4, 4:8]
  np.testing.assert_allclose(
    found[1, 2, 1, 7], np.sum(window * w_hwio[..., 7]), rtol=1e-4
  )


@pytest.mark.parametrize("size", [1, 3])
def test_dense_convolution_is_one_group(size):
  x_bhwc, w_hwio = (
    jnp.asarray(a, "float32") for a in _inputs(size=size, groups=1)
  )
  np.testing.assert_allclose(
    grouped_conv.conv(x_bhwc, w_hwio),
    grouped_conv.native(x_bhwc, w_hwio, 1),
    atol=1e-5,
  )


@pytest.mark.parametrize("name", sorted(grouped_conv.FORMULATIONS))
def test_groups_do_not_see_each_other(name):
  x_bhwc, w_hwio = (jnp.asarray(a, "float32") for a in _inputs())
  convolve = grouped_conv.FORMULATIONS[name]
  changed = x_bhwc.at[..., :4].add(1.0)
  before, after = (convolve(x, w_hwio, 2) for x in (x_bhwc, changed))
  np.testing.assert_allclose(before[..., 6:], after[..., 6:], atol=1e-6)
  assert np.abs(before[..., :6] - after[..., :6]).max() > 0.1


def test_choice_follows_the_platform_unless_told():
  def choose(formulation, platform, side=16, group_width=16, groups=4):
    return grouped_conv.choose(formulation, platform, groups, side, group_width)

  assert choose("patches", "tpu") == "patches"
  assert choose("auto", "gpu") == "native"
  assert choose("auto", "cpu") == "per_group"
  assert choose("auto", "cpu", groups=64) == "patches"
  # As measured: merging pays from 16 px for groups of 16, 8 px for 32.
  for side, width, name in (
    (16, 16, "merged"),
    (8, 16, "native"),
    (8, 32, "merged"),
    (4, 32, "native"),
    (64, 128, "native"),
  ):
    assert choose("auto", "tpu", side, width) == name
