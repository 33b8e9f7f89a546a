"""The split axis of each leaf of the state, for real models."""

import ast
import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bigscale.configs import biggan, biggan_deep, r3gan
from bigscale.models.make import make_model
from bigscale.parallel import sharding
from bigscale.parallel.mesh import AXES, make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train.state import init_state
from bigscale.types import Shard

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODELS = {
  "biggan128": biggan.get_config("128"),
  "biggan_deep128": biggan_deep.get_config("128"),
  "r3gan_imagenet64": r3gan.get_config("imagenet64"),
}
# The first mesh splits nothing.
MESHES = ((8, 1), (4, 2), (1, 8))


@functools.cache
def abstract_state(name):
  spec = from_config(MODELS[name])
  model = make_model(spec.model, "tpu")
  return jax.eval_shape(functools.partial(init_state, model, spec))


def placement(data, fsdp, weights="zero", least=2**14):
  return Placement(make_mesh(MeshSpec(data=data, fsdp=fsdp)), weights, least)


def named(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize("name", MODELS)
def test_shardings_match_the_golden_files(name):
  """Compares with the golden files; set BIGSCALE_RENEW=1 to rewrite them."""
  found = {}
  for data, fsdp in MESHES:
    axes = named(placement(data, fsdp).axes(abstract_state(name)))
    found[f"data={data},fsdp={fsdp}"] = {
      path: axis
      for path, axis in axes.items()
      if "/params/" in path and not path.startswith("ema") and axis >= 0
    }
  path = GOLDEN / f"{name}.json"
  text = json.dumps(found, indent=1, sort_keys=True) + "\n"
  if _renewing():
    path.write_text(text)
  assert json.loads(path.read_text()) == found


def _renewing():
  import os

  return os.environ.get("BIGSCALE_RENEW") == "1"


@pytest.mark.parametrize("name", MODELS)
def test_moments_and_average_are_split_like_the_weights(name):
  """Adam's moments and the moving average are split like their weights."""
  axes = named(placement(1, 8).axes(abstract_state(name)))
  followers = 0
  for path, axis in axes.items():
    player, _, rest = path.partition("/")
    for between in ("optimizer/0/mu/", "optimizer/0/nu/"):
      if rest.startswith(between):
        followers += 1
        assert axes[f"{player}/params/{rest.removeprefix(between)}"] == axis
    if path.startswith("ema/params/"):
      assert axes["g/" + rest] == axis
  assert followers > 20


@pytest.mark.parametrize("name", MODELS)
def test_nearly_all_elements_are_split(name):
  state = abstract_state(name)
  leaves = named(state)
  axes = named(placement(1, 8).axes(state))
  split = sum(leaves[path].size for path, axis in axes.items() if axis >= 0)
  assert split > 0.98 * sum(leaf.size for leaf in leaves.values())


def test_every_mode_has_rules_and_replicated_splits_nothing():
  axes = named(placement(1, 8, "replicated").axes(abstract_state("biggan128")))
  assert set(axes.values()) == {-1}
  assert set(sharding.RULES) == {"replicated", "zero", "fsdp"}


def test_a_matrix_without_a_rule_raises_with_the_rule_to_add():
  tree = {"a": {"oddity": jnp.zeros((64, 128)), "scale": jnp.zeros(64)}}
  with pytest.raises(SpecError, match="no sharding rule matches") as caught:
    placement(1, 8).axes(tree)
  message = str(caught.value)
  assert "'a/oddity' of shape (64, 128)" in message
  assert "sharding_rules" in message
  # Follow the advice of the message.
  rule = ast.literal_eval(
    re.search(r"""\(r"[^"]*", \([-0-9, ]*\)\)""", message)[0]
  )
  given = dataclasses.replace(placement(1, 8, least=0), rules=(rule,))
  assert given.axes(tree) == {"a": {"oddity": 1, "scale": -1}}


@pytest.mark.parametrize("weights", ["replicated", "zero"])
def test_rules_of_a_family_have_priority(weights):
  tree = {"a": {"kernel": jnp.zeros((64, 128))}}
  rules = ((r"a/kernel", (0,)),)
  given = dataclasses.replace(placement(1, 8, weights, 0), rules=rules)
  split = 0 if weights == "zero" else -1
  assert given.axes(tree) == {"a": {"kernel": split}}


def test_vectors_and_scalars_are_replicated_without_a_rule():
  tree = {"scale": jnp.zeros(2**16), "count": jnp.zeros(())}
  assert placement(1, 8, least=0).axes(tree) == {"scale": -1, "count": -1}


def test_the_first_rule_wins_and_the_first_axis_that_divides():
  rules = ((r".*/kernel", (-1, -2)), (r".*", ()))
  assert sharding.split_axis("a/kernel", (3, 3, 8, 16), 8, rules) == 3
  assert sharding.split_axis("a/kernel", (3, 3, 8, 3), 8, rules) == 2
  assert sharding.split_axis("a/kernel", (3, 3, 3, 3), 8, rules) is None
  assert sharding.split_axis("a/kernel", (8,), 8, rules) == 0
  assert sharding.split_axis("a/bias", (8, 8), 8, rules) is None
  assert sharding.split_axis("a/kernel", (8, 8), 1, rules) is None


def test_small_leaves_are_replicated():
  tree = {"kernel": jnp.zeros((8, 8))}
  assert placement(1, 8, least=64).axes(tree) == {"kernel": 1}
  assert placement(1, 8, least=65).axes(tree) == {"kernel": -1}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weights", ["replicated", "zero", "fsdp"])
def test_gathered_gradients_are_summed_once(monkeypatch, weights, apart):
  """Each device gets the whole weights, and gradients are summed once.

  Between CPU processes, sums use an all-reduce: Gloo's reduce-scatter can be
  wrong.
  """
  if apart:
    monkeypatch.setattr(Placement, "uses_gloo", True)
  place = placement(4, 2, weights, least=0)
  tree = {"kernel": jnp.arange(24.0).reshape(3, 8), "bias": jnp.arange(5.0)}
  axes = place.axes(tree)

  def here(tree, rank_b):
    def loss(tree):
      whole = sharding.gather_shards(
        place.shards(tree, axes), place.may_scatter
      )
      assert whole["kernel"].shape == (3, 8)
      return sum(
        jnp.sum(leaf * rank_b[0] * (1 + jnp.arange(leaf.size)).reshape(s))
        for leaf, s in ((whole["kernel"], (3, 8)), (whole["bias"], (5,)))
      )

    return place.sum_gradients(jax.grad(loss)(tree), axes)

  @jax.jit
  def total(tree):
    ready = place.gather(place.split(tree))
    return place.map_devices(
      here,
      in_specs=(place.compute_specs(tree), P(AXES)),
      out_specs=place.specs(tree),
    )(ready, jnp.arange(8.0))

  summed = total(tree)
  scattered = "reduce-scatter" in total.lower(tree).compile().as_text()
  assert scattered == (weights != "replicated" and not apart)
  # Ranks 0 to 7 sum to 28.
  np.testing.assert_allclose(
    summed["kernel"], 28 * (1 + np.arange(24)).reshape(3, 8)
  )
  np.testing.assert_allclose(summed["bias"], 28 * (1 + np.arange(5)))
  split = weights != "replicated"
  assert summed["kernel"].sharding.spec == (P(None, "fsdp") if split else P())


def test_shards_are_transparent_to_tree_functions():
  shard = Shard(jnp.ones(3), axis=0)
  doubled = jax.tree.map(lambda x: 2 * x, {"a": shard})
  assert doubled["a"].axis == 0
  np.testing.assert_array_equal(doubled["a"].value, 2.0)


def test_second_derivatives_of_gathers_agree():
  """Gradient penalties differentiate twice, with and without may_scatter."""
  place = placement(4, 2, "fsdp", least=0)
  tree = {"kernel": jnp.linspace(-1.0, 1.0, 24).reshape(3, 8)}
  axes = place.axes(tree)

  def gradient(may_scatter):
    def here(tree, x_b):
      def penalty(tree):
        def out(x_b):
          shards = place.shards(tree, axes)
          whole = sharding.gather_shards(shards, may_scatter)
          return jnp.sum(jnp.tanh(x_b @ whole["kernel"]))

        return jnp.sum(jax.grad(out)(x_b) ** 2)

      return place.sum_gradients(jax.grad(penalty)(tree), axes)

    mapped = place.map_devices(
      here, in_specs=(place.specs(tree), P(AXES)), out_specs=place.specs(tree)
    )
    return jax.jit(mapped)(tree, jnp.linspace(0.0, 1.0, 24).reshape(8, 3))

  scattered, summed = gradient(True)["kernel"], gradient(False)["kernel"]
  assert jnp.max(jnp.abs(scattered)) > 0.1
  np.testing.assert_allclose(scattered, summed, rtol=1e-5, atol=1e-6)
