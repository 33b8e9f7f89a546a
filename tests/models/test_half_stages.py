"""bfloat16 stages of the networks other than R3GAN."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.stripped_stylegan2 import StrippedSpec
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError
from tests import fast_compile

_SPECS = {
  "biggan": BigganSpec(
    resolution=32,
    num_classes=3,
    latent_dim=8,
    g_width=2,
    d_width=2,
    shared_dim=4,
    g_attention=(16, 32),
    d_attention=(16,),
  ),
  "biggan_deep": BigganDeepSpec(
    resolution=64,
    num_classes=3,
    latent_dim=4,
    g_width=4,
    d_width=4,
    g_attention=(16,),
    d_attention=(16,),
  ),
  "r3gan": R3ganSpec(
    resolution=16,
    latent_dim=8,
    widths=(8, 8, 4),
    blocks=(1, 1, 1),
    cardinality=(2, 2, 2),
  ),
  "stripped": StrippedSpec(resolution=16, latent_dim=8, widths=(8, 8, 4)),
}
_STAGES = {"biggan": 4, "biggan_deep": 5, "r3gan": 3, "stripped": 3}
_LABELS = np.array([0, 1], "i4")


def _half(name, stages):
  """Returns the kernels of G and of D that are cast."""
  spec = dataclasses.replace(_SPECS[name], bf16_stages=stages)
  model = make_model(spec, "cpu")
  found = []
  for network in (model.g, model.d):
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    found.append({p for p in flatten(shapes["params"]) if network.half(p)})
  return found


def _run(spec):
  """Returns images, statistics, logits and D's input gradient.

  Weights are fixed. Also returns functions of the images and logits alone, and
  the arguments of both.
  """
  model = make_model(spec, "cpu")

  def weights(network, seed):
    random = np.random.RandomState(seed)

    def draw(path, leaf):
      if path[-1].key in ("mean", "var"):
        return np.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype)
      fan_in = max(1, np.prod(leaf.shape[:-1]))
      return (random.normal(size=leaf.shape) / fan_in**0.5).astype(leaf.dtype)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)

  latents = np.random.RandomState(2).normal(size=(2, spec.latent_dim))
  g, d = weights(model.g, 0), weights(model.d, 1)

  def run(g, d, latents):
    images, stats = model.g.apply(g, latents, _LABELS, train=True)
    logits, pull = jax.vjp(lambda x: model.d.apply(d, x, _LABELS), images)
    return images, stats, logits, pull(jnp.ones_like(logits))[0]

  def forward(g, d, latents):
    images, _ = model.g.apply(g, latents, _LABELS, train=True)
    return images, model.d.apply(d, images, _LABELS)

  return run, forward, (g, d, latents.astype("f4"))


@pytest.mark.parametrize(
  ("name", "all_stages"),
  [
    ("biggan", False),
    pytest.param("biggan_deep", False, marks=pytest.mark.slow),
    ("r3gan", False),
    ("stripped", False),
    *((name, True) for name in _SPECS),
  ],
)
def test_images_statistics_logits_and_gradients_are_float32(name, all_stages):
  stages = _STAGES[name] if all_stages else 1
  run, _, inputs = _run(dataclasses.replace(_SPECS[name], bf16_stages=stages))
  shapes = jax.eval_shape(run, *inputs)
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("f4")}


@pytest.mark.parametrize("name", ["biggan", "stripped"])
def test_bfloat16_results_are_close(name):
  _, plain, inputs = _run(_SPECS[name])
  spec = dataclasses.replace(_SPECS[name], bf16_stages=_STAGES[name])
  _, half, _ = _run(spec)
  compile_ = functools.partial(jax.jit, compiler_options=fast_compile.OPTIONS)
  expected, found = (compile_(run)(*inputs) for run in (plain, half))
  for ours, theirs in zip(found, expected, strict=True):
    error = np.abs(ours - theirs).max()
    # bfloat16 has eight bits; a smaller difference would mean it is not used.
    assert 1e-4 < error / np.abs(theirs).max() < 0.1


def test_stages_are_counted_from_the_image_down():
  assert _half("biggan", 0) == [set(), set()]
  g, d = _half("biggan", 1)
  # Attention at 32 px follows the last block of G. In D, the side of a block's
  # input counts, and attention follows the block.
  block = {f"block2/{name}/kernel" for name in ("conv1", "conv2", "shortcut")}
  attention = {
    f"attention2/{name}/kernel" for name in ("theta", "phi", "g", "o")
  }
  assert g == block | attention | {"to_rgb/kernel"}
  assert {path.split("/")[0] for path in d} == {"block0", "attention0"}


@pytest.mark.parametrize("name", _SPECS)
def test_with_all_stages_only_convolutions_are_half(name):
  model = make_model(_SPECS[name], "cpu")
  for network, half in zip(
    (model.g, model.d), _half(name, _STAGES[name]), strict=True
  ):
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert half == {
      path
      for path, leaf in flatten(shapes).items()
      if path.endswith("kernel") and leaf.ndim == 4
    }


@pytest.mark.parametrize("name", _SPECS)
def test_there_are_no_more_stages_than_resolutions(name):
  change = functools.partial(dataclasses.replace, _SPECS[name])
  change(bf16_stages=_STAGES[name])
  for stages in (-1, _STAGES[name] + 1):
    words = f"between 0 and {_STAGES[name]}|must be 0 or more"
    with pytest.raises(SpecError, match=words):
      change(bf16_stages=stages)
