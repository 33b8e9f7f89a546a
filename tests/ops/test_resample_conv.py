"""All forms of resampling convolutions are the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.ops import resample_conv
from tests import fast_compile

_FORMS = {
  "upsample": resample_conv.UPSAMPLE,
  "pool": resample_conv.POOL,
  "pool_1x1": {
    "plain": lambda x, w: resample_conv.POOL["plain"](
      x, jnp.pad(w, ((1, 1), (1, 1), (0, 0), (0, 0)))
    ),
    **resample_conv.POOL_1X1,
  },
  "upsample_1x1": {
    "plain": lambda x, w: resample_conv.UPSAMPLE["plain"](
      x, jnp.pad(w, ((1, 1), (1, 1), (0, 0), (0, 0)))
    ),
    **resample_conv.UPSAMPLE_1X1,
  },
}
_OTHERS = [
  (name, form)
  for name, forms in _FORMS.items()
  for form in forms
  if form != "plain"
]


def _inputs(name=""):
  random = np.random.RandomState(0)
  size = 1 if name.endswith("1x1") else 3
  return random.normal(size=(2, 6, 4, 3)), random.normal(
    size=(size, size, 3, 5)
  )


def _derivatives(form, x_bhwc, w_hwio):
  """Returns the value, gradients, and gradients of a gradient penalty."""

  def value(x, w):
    return jnp.sum(jnp.sin(form(x, w)))

  def penalty(x, w):
    by_x, by_w = jax.grad(value, (0, 1))(x, w)
    return jnp.sum(jnp.square(by_x)) + jnp.sum(jnp.sin(by_w))

  return (
    form(x_bhwc, w_hwio),
    jax.grad(value, (0, 1))(x_bhwc, w_hwio),
    jax.grad(penalty, (0, 1))(x_bhwc, w_hwio),
  )


@pytest.mark.parametrize(("name", "form"), _OTHERS)
def test_forms_agree_to_second_order(name, form):
  with jax.enable_x64(True):
    inputs = map(jnp.asarray, _inputs(name))
    run = jax.jit(
      _derivatives, static_argnums=0, compiler_options=fast_compile.OPTIONS
    )
    x_bhwc, w_hwio = inputs
    expected = run(_FORMS[name]["plain"], x_bhwc, w_hwio)
    found = run(_FORMS[name][form], x_bhwc, w_hwio)
    for ours, plain in zip(
      *map(jax.tree.leaves, (found, expected)), strict=True
    ):
      assert ours.dtype == jnp.float64
      np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-11)


def test_doubling_repeats_pixels_and_sees_zeros_beyond_the_border():
  x_bhwc, w_hwio = _inputs()
  found = resample_conv.upsample_conv(
    jnp.asarray(x_bhwc, "f4"), jnp.asarray(w_hwio, "f4"), platform="cpu"
  )
  assert found.shape == (2, 12, 8, 5)
  padded = np.pad(
    x_bhwc.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1), (0, 0))
  )
  for row, column in ((0, 0), (3, 4), (11, 7)):
    window = padded[1, row : row + 3, column : column + 3]
    np.testing.assert_allclose(
      found[1, row, column, 2], np.sum(window * w_hwio[..., 2]), rtol=1e-4
    )


def test_halving_is_the_mean_of_four_convolutions():
  x_bhwc, w_hwio = _inputs()
  found = resample_conv.conv_pool(
    jnp.asarray(x_bhwc, "f4"), jnp.asarray(w_hwio, "f4"), platform="cpu"
  )
  assert found.shape == (2, 3, 2, 5)
  padded = np.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0)))
  for row, column in ((0, 0), (2, 1)):
    windows = [
      padded[1, i : i + 3, j : j + 3]
      for i in (2 * row, 2 * row + 1)
      for j in (2 * column, 2 * column + 1)
    ]
    expected = np.mean([np.sum(w * w_hwio[..., 2]) for w in windows])
    np.testing.assert_allclose(
      found[1, row, column, 2], expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
  ("platform", "side"), [("cpu", 4), ("gpu", 4), ("tpu", 4), ("tpu", 64)]
)
def test_every_platform_has_the_same_function(platform, side):
  random = np.random.RandomState(0)
  x_bhwc = jnp.asarray(random.normal(size=(1, side, side, 2)), "f4")
  w_hwio = jnp.asarray(random.normal(size=(3, 3, 2, 2)), "f4")
  for name, chosen in (
    ("upsample", resample_conv.upsample_conv),
    ("pool", resample_conv.conv_pool),
  ):
    np.testing.assert_allclose(
      chosen(x_bhwc, w_hwio, platform=platform),
      _FORMS[name]["plain"](x_bhwc, w_hwio),
      atol=1e-4,
    )


@pytest.mark.parametrize(("name", "form"), _OTHERS)
def test_bfloat16_inputs_give_bfloat16(name, form):
  """Sums of weights are computed in float32 and rounded once."""
  x_bhwc, w_hwio = (jnp.asarray(a, jnp.bfloat16) for a in _inputs(name))
  found = _FORMS[name][form](x_bhwc, w_hwio)
  assert found.dtype == jnp.bfloat16
  wide = _FORMS[name]["plain"](x_bhwc.astype("f4"), w_hwio.astype("f4"))
  scale = float(jnp.abs(wide).max())
  np.testing.assert_allclose(found.astype("f4"), wide, atol=0.02 * scale)
