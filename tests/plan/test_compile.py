"""Tests that compile small programs with the TPU compiler, in seconds each."""

import dataclasses
import importlib.util
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.ops import precision
from bigscale.parallel.mesh import make_mesh
from bigscale.plan import compile as compiling
from bigscale.plan import cost, hlo, measure, memory, timing, topology
from bigscale.plan.make import make
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train.build import Built
from tests.e2e import tiny
from tests.plan import excerpts

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler, libtpu, is not installed",
)

AXES = ("data", "fsdp")
WIDTH = 512


def mesh_of(name, fsdp):
  slice_ = topology.parse(name)
  return slice_, make_mesh(
    MeshSpec(fsdp=fsdp), devices=topology.devices(slice_)
  )


def abstract(mesh, shape, *spec, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh, P(*spec))
  )


def lowered_step(mesh):
  """Two updates of 3 microbatches, with one all-reduce of gradients each."""

  def local(w, x):
    def microbatch(total, part):
      def loss(w):
        return jnp.sum(jnp.tanh(part @ w.astype(jnp.bfloat16)) ** 2)

      return total + jax.grad(loss)(w), None

    with jax.named_scope("d_update"):
      total, _ = lax.scan(microbatch, jnp.zeros_like(w), x)
    return lax.psum(total, AXES)

  def step(w, x):
    def update(w, part):
      gradient = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(None, AXES)),
        out_specs=P(),
        check_vma=False,
      )(w, part)
      with jax.named_scope("adam"):
        return w - gradient / (jnp.abs(gradient) + 1e-8), jnp.sum(gradient)

    return lax.scan(update, w, x)

  w = abstract(mesh, (WIDTH, WIDTH))
  x = abstract(
    mesh, (2, 3, 64 * mesh.size, WIDTH), None, None, AXES, dtype=jnp.bfloat16
  )
  return jax.jit(step, donate_argnums=0).lower(w, x)


class Player(NamedTuple):
  params: dict


class State(NamedTuple):
  g: Player
  d: Player


class Step(NamedTuple):
  mesh: Mesh

  def lower(self, state, batch):
    return lowered_step(self.mesh)


@pytest.fixture(scope="module")
def step_plan():
  slice_, mesh = mesh_of("v5e:4x4", 4)
  return compiling.program(lowered_step(mesh), slice_, mesh, "O1")


def test_loop_bodies_count_once_per_iteration(step_plan):
  # One product forward and one backward, with 64 rows each.
  product = 2 * 64 * WIDTH * WIDTH
  flops = step_plan["flops_per_step_per_device"]
  assert flops == pytest.approx(2 * 3 * 2 * product, rel=0.02)
  assert not any("trip count" in one for one in step_plan["warnings"])


def test_each_update_has_one_all_reduce(step_plan):
  reduce = step_plan["collectives"]["all-reduce"]
  assert reduce["count"] == 2
  assert reduce["bytes"] == 2 * 4 * WIDTH * WIDTH
  # A line of 4 chips along both axes: 2 V 15/16 / (2 W), and 2 x 6 hops.
  each = 2 * 4 * WIDTH * WIDTH * 15 / 16 / 9e10 + 12e-6
  assert reduce["seconds"] == pytest.approx(2 * each)
  assert step_plan["collective_seconds"]["sync"] >= 2 * each
  longest = step_plan["longest_collectives"][0]
  assert longest["seconds"] == reduce["seconds"]
  assert longest["group_size"] == 16
  assert longest["where"] == "psum"


def test_times_add_up_to_the_step(step_plan):
  apart = step_plan["collective_seconds"]
  assert step_plan["estimated_step_seconds"] == pytest.approx(
    step_plan["cycles_seconds"] + apart["sync"] + apart["exposed"]
  )
  assert sum(step_plan["breakdown"].values()) == pytest.approx(1)
  assert sum(step_plan["categories"].values()) == pytest.approx(
    step_plan["cycles_seconds"]
  )
  assert step_plan["categories"]["convolution"] > 0
  assert step_plan["categories"]["optimizer"] > 0
  assert step_plan["phases"]["d_update"] > 0
  assert "O1" in step_plan["warnings"][0]


def test_donated_memory_counts_once(step_plan):
  weights, batch = 4 * WIDTH * WIDTH, 2 * 3 * 64 * WIDTH * 2
  memory = step_plan["memory"]
  assert memory["argument"] == weights + batch
  assert memory["alias"] == weights
  assert weights + batch <= memory["peak"] < 4 * (weights + batch)
  assert step_plan["hbm_bytes_per_device"] == memory["peak"]
  assert step_plan["fits"]


def test_a_program_that_does_not_fit_is_reported():
  slice_, mesh = mesh_of("v5e:2x2", 1)
  x = abstract(mesh, (4 * 60_000, 60_000), AXES)
  lowered = jax.jit(lambda x: x + 1).lower(x)
  found = compiling.program(lowered, slice_, mesh, "O1")
  assert not found["fits"]
  needed = 2 * 4 * 60_000**2
  assert found["hbm_bytes_per_device"] == pytest.approx(needed, rel=0.01)
  assert found["hbm_limit_bytes"] == pytest.approx(
    slice_.chip.hbm_bytes, rel=0.001
  )
  shortfall = needed - slice_.chip.hbm_bytes
  assert found["hbm_shortfall_bytes"] == pytest.approx(shortfall, rel=0.02)
  assert found["estimated_step_seconds"] is None


def test_convolution_flop_match_xla():
  """Strides, dilation, groups and both gradients, without loops."""
  slice_, mesh = mesh_of("v5e:1x1", 1)

  def loss(w_hwio, w2_hwio, x_bhwc):
    dims = ("NHWC", "HWIO", "NHWC")
    y_bhwc = lax.conv_general_dilated(
      x_bhwc, w_hwio, (2, 2), "SAME", dimension_numbers=dims
    )
    y_bhwc = lax.conv_general_dilated(
      jnp.tanh(y_bhwc),
      w2_hwio,
      (1, 1),
      "SAME",
      rhs_dilation=(2, 2),
      dimension_numbers=dims,
      feature_group_count=2,
    )
    return jnp.sum(y_bhwc**2)

  arguments = (
    abstract(mesh, (3, 3, 128, 256)),
    abstract(mesh, (3, 3, 128, 256)),
    abstract(mesh, (8, 16, 16, 128)),
  )
  lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arguments)
  compiled = lowered.compile(compiler_options={"optimization_level": 19})
  work = measure.measure(hlo.parse(compiled.as_text()), 1)
  of_xla = compiled.cost_analysis()["flops"]
  assert work.flops == pytest.approx(of_xla, rel=0.02)
  del slice_


def test_compiled_program_has_the_stated_precision():
  """The product of a network with its gradients, and a product elsewhere."""
  slice_, mesh = mesh_of("v5e:1x1", 1)

  def loss(w, x):
    y = at_choice(lambda w, x: jnp.tanh(x @ w))(w, x)
    return jnp.sum(y @ y.T)

  at_choice = precision.of_network("high")
  arguments = abstract(mesh, (256, 128)), abstract(mesh, (64, 256))

  def lowered():
    gradients = jax.grad(loss, argnums=(0, 1))
    return jax.jit(precision.exact(gradients)).lower(*arguments)

  found = compiling.program(lowered(), slice_, mesh, "O1", stated="high")
  products = found["float32_products"]
  assert products["network"].keys() == {"high"}
  assert products["network"]["high"]["count"] == 3
  assert products["network"]["high"]["cycles_seconds"] > 0
  assert products["elsewhere"].keys() == {"highest"}
  with pytest.raises(SpecError, match=r"network.*: high"):
    compiling.program(lowered(), slice_, mesh, "O1")


def test_slices_communicate_over_the_data_center_network():
  slice_, mesh = mesh_of("2xv5e:2x2", 2)
  summed = jax.shard_map(
    lambda x: lax.psum(x, "data"),
    mesh=mesh,
    in_specs=P(AXES),
    out_specs=P("fsdp"),
    check_vma=False,
  )
  x = abstract(mesh, (8 * 1024, 1024), AXES)
  found = compiling.program(jax.jit(summed).lower(x), slice_, mesh, "O1")
  across = found["collectives"]["all-reduce between slices"]
  assert across["asynchronous"] == across["count"] >= 1
  assert found["collective_seconds"]["async"] == across["seconds"] > 2e-4


def test_only_exposed_seconds_are_added():
  """20,000 cycles overlap a permutation, 50,000 the reduction over slices."""
  slice_ = topology.parse("2xv5e:4x4")
  where = [cost.Place((n % 4, n // 4)) for n in range(16)]
  network = cost.Interconnect(slice_, where)
  work = measure.measure(hlo.parse(excerpts.TWO_SLICES), 16)
  found = timing.times(work, network, 1e9)
  apart = found["collective_seconds"]
  permute = 4 * 2**20 / 4.5e10 + 1e-6
  across = 2 * (2 * 2**20 / 2 / (2.5e10 / 8) + 1e-4)
  assert apart["async"] == pytest.approx(permute + across)
  hidden = (20_000 + 50_000) / 1.5e9
  assert apart["exposed"] == pytest.approx(permute + across - hidden)
  # With a slow clock, other work hides all of it.
  slow = dataclasses.replace(slice_.chip, clock_hz=1e6)
  network.topology = dataclasses.replace(slice_, chip=slow)
  assert timing.times(work, network, 1e9)["collective_seconds"] == {
    "sync": pytest.approx(apart["sync"]),
    "async": pytest.approx(apart["async"]),
    "exposed": 0,
  }


def test_state_bytes_are_counted_per_shard():
  _, mesh = mesh_of("v5e:4x4", 4)
  tree = {
    "split": abstract(mesh, (8, 4), "fsdp"),
    "whole": abstract(mesh, (8,), dtype=jnp.bfloat16),
  }
  assert memory.bytes_per_device(tree) == 2 * 4 * 4 + 8 * 2


def test_shapes_unknown_to_libtpu_are_refused():
  with pytest.raises(SpecError, match="rejects topology 'v5e:3x5'"):
    topology.devices(topology.parse("v5e:3x5"))


@pytest.fixture
def small_run(monkeypatch, tmp_path):
  """A run with the step above, since its own takes half a minute to compile."""
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  config = tiny.get_config()
  config.global_batch_size = 128
  config.mesh = {"data": -1, "fsdp": 4}
  spec = from_config(config)
  builds = []

  def build(spec, mesh):
    builds.append(mesh.shape)
    player = Player({"w": abstract(mesh, (WIDTH, WIDTH))})
    return Built(
      spec=spec,
      mesh=mesh,
      model=None,
      abstract_state=State(player, player),
      abstract_batch=None,
      init=None,
      step=Step(mesh),
      abstract_heldout=None,
      probe=None,
      sample=None,
    )

  monkeypatch.setattr(compiling, "build", build)
  return spec, builds


def test_plans_are_cached(small_run):
  spec, builds = small_run
  first = make(spec, topology.parse("v5e:4x4"), "O1")
  again = make(spec, topology.parse("v5e:4x4"), "O1")
  assert len(builds) == 1
  assert first == again == json.loads(json.dumps(first))
  assert builds[0] == {"data": 4, "fsdp": 4}
  for key in (
    "topology",
    "devices",
    "global_batch_size",
    "hbm_bytes_per_device",
    "hbm_limit_bytes",
    "fits",
    "flops_per_step_per_device",
    "estimated_step_seconds",
    "estimated_mfu",
    "collectives",
    "parameters",
    "compile_seconds",
  ):
    assert key in first
  assert first["parameters"] == {"g": WIDTH * WIDTH, "d": WIDTH * WIDTH}
  assert first["memory"]["state"] == 2 * 4 * WIDTH * WIDTH
  assert first["images_per_second"] * first[
    "estimated_step_seconds"
  ] == pytest.approx(128)
  assert first["advice"]
  make(spec, topology.parse("v5e:4x4"), "O1", use_cache=False)
  assert len(builds) == 2


@pytest.mark.slow
def test_biggan_128_on_a_v5e_pod(tmp_path, monkeypatch):
  """The paper's run on a pod; takes minutes, and 2 to 3 GiB."""
  from bigscale.configs import biggan_imagenet128

  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  spec = from_config(biggan_imagenet128.get_config())
  plan = make(spec, topology.parse("v5e:16x16"), "O1")
  assert plan["fits"]
  assert plan["hbm_bytes_per_device"] < 3 * 2**30
  assert plan["parameters"]["g"] == pytest.approx(70.4e6, rel=0.01)
  assert plan["parameters"]["d"] == pytest.approx(88.0e6, rel=0.01)
  # Two D updates and one G update take 1.3 TFLOP each by their layers. About
  # half remains, since convolutions next to a change of resolution take fewer
  # products.
  assert 1.5e12 < plan["flops_per_step_per_device"] < 4.5e12
  assert not any("trip count" in one for one in plan["warnings"])
