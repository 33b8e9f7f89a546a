"""One forward pass of G for all D updates equals one pass per update.

Each network has two matrices, so that a step compiles in seconds.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models import networks
from bigscale.models.blocks import Gather
from bigscale.models.layers import Dense
from bigscale.models.make import make_model
from bigscale.models.norms import AffineBatchNorm, Moments
from bigscale.parallel import sharding
from bigscale.parallel.mesh import AXES, make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import from_config
from bigscale.train.draw import Draw
from bigscale.train.state import init_state
from bigscale.train.step import GanStep
from bigscale.types import Batch, BatchSplit
from tests import fast_compile
from tests.parallel.tiny_gans import worst

BATCH, SIDE = 16, 8
_lecun = nn.initializers.lecun_normal()


class Generator(nn.Module):
  """A linear layer, batch norm, and a linear layer."""

  moments: Moments
  gather: Gather | None = None

  @nn.compact
  def __call__(self, latents, labels, *, train):
    x = Dense(2 * 2 * 8, "float64", _lecun, name="first")(latents)
    norm = AffineBatchNorm(0.9, 1e-4, "float64", self.moments, name="norm")
    x = nn.relu(norm(x.reshape(-1, 2, 2, 8), train=train))
    x = Dense(SIDE * SIDE * 3, "float64", _lecun, name="last")(
      x.reshape(len(x), -1)
    )
    return jnp.tanh(x).reshape(-1, SIDE, SIDE, 3)


class Discriminator(nn.Module):
  """A linear layer, tanh, and a linear layer."""

  gather: Gather | None = None

  @nn.compact
  def __call__(self, images, labels):
    x = images.reshape(len(images), -1)
    x = jnp.tanh(Dense(8, "float64", _lecun, name="first")(x))
    # The logit depends on the label, so swapped labels would be noticed.
    return (1 + labels) * Dense(1, "float64", _lecun, name="linear")(x)[:, 0]


class Case(NamedTuple):
  """How a training of two steps is computed."""

  mesh: tuple[int, int] = (1, 1)
  weights: str = "replicated"
  microbatches: int = 1
  group: int = 0
  d_steps: int = 2
  at_once: bool = False


def spec_of(case, **model):
  return from_config(
    {
      "global_batch_size": BATCH,
      "total_kimg": 1.0,
      "model": {
        "name": "biggan",
        "resolution": SIDE,
        "latent_dim": 6,
        "num_classes": 3,
        "g_attention": (),
        "d_attention": (),
        "spectral_update": "step",
        "batch_norm_update": "step",
        "batch_norm_group_size": case.group,
        "num_singular_values": 1,
        "dtype": "float64",
        **model,
      },
      "loss": {"adversarial": "hinge"},
      "optim": {
        "g_lr": 1e-3,
        "d_lr": 1e-3,
        "d_steps": case.d_steps,
        "microbatches": case.microbatches,
        "fakes_at_once": case.at_once,
      },
      "data": {"source": "emoji"},
      "mesh": {
        "data": case.mesh[0],
        "fsdp": case.mesh[1],
        "weights": case.weights,
        "min_split_elements": 2,
      },
    }
  )


@functools.cache
def trained(case):
  """Returns the scalars of two steps and the final state."""
  spec = spec_of(case)
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    mesh = make_mesh(spec.mesh, jax.devices()[: np.prod(case.mesh)])
    placement = Placement(mesh, spec.mesh.weights, spec.mesh.min_split_elements)
    model = networks.gan_model(
      Generator(Moments(case.group, BatchSplit(AXES, mesh.size))),
      Discriminator(),
      spec.model,
      sharding.gather_shards if case.weights == "fsdp" else None,
      g_orthogonal=networks.never,
      d_orthogonal=networks.never,
    )
    init = functools.partial(init_state, model, spec)
    shardings = placement.shardings(jax.eval_shape(init))
    options = fast_compile.OPTIONS
    state = jax.jit(init, out_shardings=shardings, compiler_options=options)()
    step = jax.jit(
      GanStep(model, spec, placement),
      out_shardings=(shardings, sharding.replicated(mesh)),
      compiler_options=options,
    )
    rows = []
    for _ in range(2):
      shape = (case.d_steps, BATCH)
      images = rng.integers(0, 256, (*shape, SIDE, SIDE, 3), np.uint8)
      batch = Batch(images, np.zeros(shape, np.int32))
      where = sharding.batch_sharding(mesh)
      state, scalars = step(state, jax.device_put(batch, where))
      rows.append(jax.device_get(scalars))
    return rows, jax.device_get(state)


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(Case(d_steps=3), marks=pytest.mark.slow),
    Case(mesh=(2, 2), weights="zero", microbatches=2),
    Case(mesh=(2, 2), weights="fsdp", group=2, d_steps=3),
    pytest.param(
      Case(mesh=(2, 1), microbatches=2, group=4), marks=pytest.mark.slow
    ),
  ],
  ids=str,
)
def test_one_pass_equals_one_pass_per_update(case):
  """The reference runs on one device with a pass per update."""
  apart = case._replace(mesh=(1, 1), weights="replicated")
  if case.group:
    # A group is always in one microbatch.
    apart = apart._replace(microbatches=1)
  rows, state = trained(apart)
  other_rows, other = trained(case._replace(at_once=True))
  assert worst(rows, other_rows) < 1e-8
  assert worst(state.ema, other.ema) < 1e-8
  assert worst(state.d, other.d) < 1e-8
  stats = jax.tree.leaves(other.g.batch_stats)
  assert worst(state.g.batch_stats, other.g.batch_stats) < 1e-8
  assert all(np.ptp(leaf) > 0 for leaf in stats)


def test_the_generator_of_a_model_takes_passes():
  """BigGAN has batch norm in its blocks and at its end."""
  case = Case()
  spec = spec_of(case, g_width=2, d_width=2, shared_dim=2)
  with jax.enable_x64(True):
    g = make_model(spec.model, "cpu").g
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.jit(g.init, compiler_options=fast_compile.OPTIONS)(keys[0])
    latents = jax.random.normal(keys[1], (2, 4, 6), "float64")
    labels = jnp.arange(8).reshape(2, 4) % 3
    apply = functools.partial(g.apply, train=True)
    params, start = variables["params"], variables["batch_stats"]
    stats = start
    images = []
    for i in range(2):
      variables = {"params": params, "batch_stats": stats}
      drawn, stats = jax.jit(apply, compiler_options=fast_compile.OPTIONS)(
        variables, latents[i], labels[i]
      )
      images.append(drawn)
    variables = {"params": params, "batch_stats": start}
    together, moved = jax.jit(
      functools.partial(apply, passes=2), compiler_options=fast_compile.OPTIONS
    )(variables, latents.reshape(8, 6), labels.reshape(8))
    np.testing.assert_allclose(together, jnp.concatenate(images), atol=1e-9)
    assert worst(stats, moved) < 1e-9


@pytest.mark.parametrize(
  ("update", "microbatches", "together"),
  [("step", 2, True), ("forward", 1, True), ("forward", 2, False)],
)
def test_statistics_in_turn_keep_updates_apart(update, microbatches, together):
  """The second update starts from the last microbatch of the first."""
  spec = spec_of(Case(microbatches=microbatches), batch_norm_update=update)
  placement = Placement(make_mesh(spec.mesh, jax.devices()[:1]))
  assert Draw(None, spec, placement).of_all_updates == together
