"""Rematerialization and gathered weights do not change the networks."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from bigscale.models import blocks
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.stripped_stylegan2 import StrippedSpec
from bigscale.ops.spectral import flatten, unflatten
from tests import fast_compile

_SPECS = {
  "biggan": BigganSpec(
    resolution=32,
    num_classes=3,
    latent_dim=8,
    g_width=2,
    d_width=2,
    shared_dim=4,
    g_attention=(16,),
    d_attention=(16,),
  ),
  "biggan_deep": BigganDeepSpec(
    resolution=64,
    latent_dim=4,
    g_width=4,
    d_width=4,
    g_depth=1,
    d_depth=1,
    g_attention=(16,),
  ),
  "r3gan": R3ganSpec(
    resolution=16,
    num_classes=3,
    latent_dim=8,
    widths=(8, 8, 4),
    blocks=(1, 1, 1),
    cardinality=(2, 2, 2),
    class_embedding_dim=4,
  ),
  "stripped": StrippedSpec(resolution=16, latent_dim=8, widths=(8, 8, 4)),
}
_BATCH = 2


def _random(shapes, seed):
  random = np.random.RandomState(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name in ("mean", "var"):
      return np.full(leaf.shape, float(name == "var"), leaf.dtype)
    return (0.3 * random.normal(size=leaf.shape)).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _variables(name, dtype="float32"):
  model = make_model(dataclasses.replace(_SPECS[name], dtype=dtype), "cpu")
  players = (model.g, model.d)
  shapes = [jax.eval_shape(n.init, jax.random.key(0)) for n in players]
  return [_random(shape, seed) for seed, shape in enumerate(shapes)]


def _codes(name):
  spec, random = _SPECS[name], np.random.RandomState(2)
  latents = random.normal(size=(_BATCH, spec.latent_dim)).astype("f4")
  return latents, np.arange(_BATCH, dtype="i4") % max(1, spec.num_classes)


def _objective(model, name):
  """Returns a loss of both networks that contains D's input gradient."""
  latents, labels = _codes(name)

  def loss(g, d):
    images, stats = model.g.apply(g, latents, labels, train=True)
    logits, pull = jax.vjp(lambda x: model.d.apply(d, x, labels), images)
    (gradient,) = pull(jnp.ones_like(logits))
    return jnp.mean(logits) + jnp.sum(jnp.square(gradient)), stats

  return loss


def _answers(name, gather=None, remat=False):
  """Returns the loss, statistics and gradients of both networks in float64."""
  spec = dataclasses.replace(_SPECS[name], dtype="float64", remat=remat)
  loss = _objective(make_model(spec, "cpu", gather=gather), name)
  run = jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True)
  run = jax.jit(run, compiler_options=fast_compile.OPTIONS)
  return run(*_variables(name, "float64"))


def _assert_same(found, expected):
  for ours, plain in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert ours.dtype == np.float64
    scale = 1e-9 * np.abs(plain).max() + 1e-9
    np.testing.assert_allclose(ours, plain, rtol=0, atol=scale)


@functools.cache
def _plain_answers(name):
  return _answers(name)


@pytest.mark.parametrize(
  "remat", [pytest.param(False, marks=pytest.mark.slow), True]
)
@pytest.mark.parametrize(
  "name", [pytest.param("biggan", marks=pytest.mark.slow), "r3gan"]
)
def test_values_and_gradients_do_not_change(name, remat):
  def gather(part):
    return jax.tree.map(lambda w: w + 0, part)

  with jax.enable_x64(True):
    found = _answers(name, gather=gather, remat=remat)
    _assert_same(found, _plain_answers(name))


@pytest.mark.parametrize(
  ("name", "remat"),
  [(name, True) for name in _SPECS] + [("r3gan", False)],
)
def test_every_parameter_is_gathered_once(name, remat):
  seen = collections.Counter()

  def gather(part):
    seen.update(flatten(part).keys())
    return part

  spec = dataclasses.replace(_SPECS[name], remat=remat)
  loss = _objective(make_model(spec, "cpu", gather=gather), name)
  found = jax.eval_shape(
    jax.value_and_grad(loss, (0, 1), has_aux=True), *_variables(name)
  )
  plain = _objective(make_model(_SPECS[name], "cpu"), name)
  assert found == jax.eval_shape(
    jax.value_and_grad(plain, (0, 1), has_aux=True), *_variables(name)
  )
  # Each network runs once, and uses each parameter once.
  g, d = (flatten(v["params"]).keys() for v in _variables(name))
  assert seen == collections.Counter([*g, *d])


@pytest.mark.parametrize("name", _SPECS)
def test_the_parameter_tree_does_not_change(name):
  plain = make_model(_SPECS[name], "cpu")
  spec = dataclasses.replace(_SPECS[name], remat=True)
  other = make_model(spec, "cpu", gather=lambda part: part)
  for ours, theirs in ((other.g, plain.g), (other.d, plain.d)):
    shapes = [jax.eval_shape(n.init, jax.random.key(0)) for n in (ours, theirs)]
    assert shapes[0] == shapes[1]


def _count(jaxpr, primitive):
  """Counts a primitive in a program and in the programs that it calls."""
  count = 0
  for equation in jaxpr.eqns:
    count += equation.primitive.name == primitive
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        count += _count(inner, primitive)
  return count


def _d_loss(name, gather=None, **changes):
  """Returns D's loss as a function of its parameters."""
  spec = dataclasses.replace(_SPECS[name], **changes)
  d = make_model(spec, "cpu", gather=gather).d
  images = np.zeros((_BATCH, spec.resolution, spec.resolution, 3), "f4")
  labels = _codes(name)[1]
  return lambda params: jnp.sum(d.apply({"params": params}, images, labels))


@pytest.mark.parametrize("name", _SPECS)
def test_remat_recomputes_blocks(name):
  params = _variables(name)[1]["params"]
  plain, again = (
    _count(
      jax.make_jaxpr(jax.grad(_d_loss(name, remat=remat)))(params).jaxpr,
      "conv_general_dilated",
    )
    for remat in (False, True)
  )
  assert again > plain


@pytest.mark.parametrize("name", ["biggan", "r3gan"])
def test_weights_of_blocks_are_gathered_again_in_the_backward_pass(name):
  """Nothing else is recomputed."""
  params = _variables(name)[1]["params"]
  parted = {
    path
    for path, w in flatten(params).items()
    if w.ndim > 1 and w.shape[-1] % 2 == 0
  }

  def gather(part):
    return unflatten(
      {
        path: lax.all_gather(w, "fsdp", axis=w.ndim - 1, tiled=True)
        if path in parted
        else w
        for path, w in flatten(part).items()
      }
    )

  specs = unflatten(
    {
      path: P(*[None] * (w.ndim - 1), "fsdp") if path in parted else P()
      for path, w in flatten(params).items()
    }
  )
  run = jax.shard_map(
    jax.grad(_d_loss(name, gather)),
    mesh=jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",)),
    in_specs=(specs,),
    out_specs=specs,
    check_vma=False,
  )
  program = jax.make_jaxpr(run)(params).jaxpr
  inside = [p for p in parted if blocks.is_block(p.split("/")[0])]
  again = _count(program, "all_gather") - len(parted)
  # The first block needs no gradient of its input, so some of its weights are
  # not needed twice. Tables never are.
  first = [p for p in inside if p.startswith(("block0", "stage16_block0"))]
  assert len(inside) - len(first) <= again <= len(inside)
  plain = jax.make_jaxpr(jax.grad(_d_loss(name)))(params).jaxpr
  for primitive in ("conv_general_dilated", "dot_general"):
    assert _count(program, primitive) == _count(plain, primitive)


def test_a_block_needs_a_block_name():
  with pytest.raises(ValueError, match="'head' is not a block's name"):
    blocks.block(object, "head", False, None)
  assert blocks.is_block("stage16_block0")
  assert not blocks.is_block("stage16_transition")
