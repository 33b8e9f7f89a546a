"""Networks multiply float32 at the precision of their spec.

This includes derivatives of all orders. The tests inspect traced programs for a
TPU; nothing is compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bigscale.losses import r1_r2
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.stripped_stylegan2 import StrippedSpec
from bigscale.ops import precision
from tests.rounding import products

_SPECS = {
  "r3gan": R3ganSpec(
    resolution=8,
    num_classes=3,
    widths=(8, 8),
    blocks=(1, 1),
    cardinality=(2, 2),
    hierarchical=True,
    bf16_stages=1,
  ),
  # Large enough to use every form of `ops/resample_conv` on a TPU.
  "biggan": BigganSpec(
    resolution=32,
    num_classes=3,
    latent_dim=20,
    g_width=4,
    d_width=4,
    g_attention=(16,),
    d_attention=(16,),
    shared_dim=4,
    remat=True,
  ),
  "biggan_deep": BigganDeepSpec(
    resolution=64,
    num_classes=3,
    g_width=4,
    d_width=4,
    g_depth=1,
    d_depth=1,
    shared_dim=4,
  ),
  "stripped": StrippedSpec(resolution=8, widths=(8, 8)),
}


def _losses(spec, platform):
  """Returns both players' gradients, D's with R1, and abstract arguments."""
  model = make_model(spec, platform)
  g, d = jax.eval_shape(
    lambda key: (model.g.init(key), model.d.init(key)), jax.random.key(0)
  )
  latents = jnp.zeros((2, spec.latent_dim))
  labels = jnp.zeros(2, jnp.int32)

  def draw(params):
    variables = {**g, "params": params}
    stats = jax.tree.map(lambda x: jnp.zeros(x.shape), g["batch_stats"])
    variables["batch_stats"] = stats
    return model.g.apply(variables, latents, labels, train=True)[0]

  def d_loss(d_params, g_params):
    logits, r1 = r1_r2.logits_and_gradient_penalty(
      lambda x: model.d.apply({"params": d_params}, x, labels), draw(g_params)
    )
    return jnp.sum(logits + r1)

  def g_loss(g_params, d_params):
    images = draw(g_params)
    return jnp.sum(model.d.apply({"params": d_params}, images, labels))

  return (
    lambda g, d: (jax.grad(d_loss)(d, g), jax.grad(g_loss)(g, d)),
    g["params"],
    d["params"],
  )


_SLOW = ("biggan_deep", "stripped")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW))
    for name in _SPECS
  ],
)
def test_every_product_of_every_derivative(name):
  spec = dataclasses.replace(_SPECS[name], precision="high")
  function, *shapes = _losses(spec, "tpu")
  # The surrounding code requests a different precision.
  program = jax.make_jaxpr(precision.exact(function))(*shapes)
  found = products(program)
  assert len(found) > 10
  assert {stated for _, stated in found} == {"high"}, found


def test_by_default_no_product_is_rounded():
  function, *shapes = _losses(_SPECS["r3gan"], "gpu")
  found = products(jax.make_jaxpr(function)(*shapes))
  assert {stated for _, stated in found} == {"highest"}


def test_a_bfloat16_stage_takes_one_pass():
  """This includes gradients of its products that accumulate to float32."""
  spec = dataclasses.replace(_SPECS["biggan"], bf16_stages=4)
  function, *shapes = _losses(spec, "tpu")
  found = products(jax.make_jaxpr(function)(*shapes))
  in_half = {one for one in found if precision.HALF in one[0]}
  assert {stated for _, stated in in_half} == {"default"}
  others = {where for where, _ in found - in_half}
  # The remaining float32 products: conditions, logits and the first layer.
  assert not any("attention" in where for where in others), others
