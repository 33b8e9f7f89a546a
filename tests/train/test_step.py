"""The step: same numbers on any device count, stateless noise, schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.multihost import to_global
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import MeshSpec, RunSpec, from_config
from bigscale.train.build import build
from bigscale.types import Batch
from tests import fast_compile

STEPS = 10


def tiny_r3gan(dtype: str) -> RunSpec:
  return from_config(
    {
      "global_batch_size": 8,
      "total_kimg": 1.0,
      "model": {
        "name": "r3gan",
        "resolution": 8,
        "num_classes": 3,
        "latent_dim": 8,
        "widths": (16, 8),
        "blocks": (1, 1),
        "cardinality": (2, 2),
        "class_embedding_dim": 4,
        "num_singular_values": 1,
        "dtype": dtype,
      },
      "data": {"source": "emoji"},
      "loss": {"adversarial": "rpgan", "r1_gamma": 0.5, "r2_gamma": 0.5},
      "optim": {
        "g_lr": {"first": 2e-4, "last": 1e-4, "kimg": 0.08},
        "d_lr": 2e-4,
        "beta2": {"first": 0.9, "last": 0.99, "kimg": 0.08},
        "ema_half_life_kimg": 0.02,
      },
    }
  )


def tiny_biggan(dtype: str) -> RunSpec:
  return from_config(
    {
      "global_batch_size": 8,
      "total_kimg": 1.0,
      "model": {
        "name": "biggan",
        "resolution": 32,
        "num_classes": 3,
        "latent_dim": 16,
        "g_width": 2,
        "d_width": 2,
        "shared_dim": 4,
        "g_attention": (16,),
        "d_attention": (16,),
        "num_singular_values": 2,
        "dtype": dtype,
      },
      "data": {"source": "emoji"},
      "loss": {"adversarial": "hinge", "orthogonal": 1e-4},
      "optim": {"g_lr": 1e-4, "d_lr": 4e-4, "d_steps": 2, "ema_decay": 0.9},
    }
  )


SPECS = {"r3gan": tiny_r3gan, "biggan": tiny_biggan}
# BigGAN's steps would take ten times as long.
OPTIONS = {"r3gan": fast_compile.OPTIONS, "biggan": {}}


@functools.cache
def first_state(name: str, dtype: str):
  """Before training, on the host: it does not depend on devices."""
  built = build(SPECS[name](dtype), make_mesh(MeshSpec(), jax.devices()[:1]))
  init = built.init.lower().compile(fast_compile.OPTIONS)
  return jax.device_get(init())


@functools.cache
def trained(name: str, devices: int, dtype: str):
  """Scalars of every step and the final state, on the host."""
  spec = SPECS[name](dtype)
  with jax.enable_x64(dtype == "float64"):
    built = build(spec, make_mesh(MeshSpec(), jax.devices()[:devices]))
    one_step = built.step.lower(
      built.abstract_state, built.abstract_batch
    ).compile(OPTIONS[name])
    shardings = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)
    state = jax.device_put(first_state(name, dtype), shardings)
    rng = np.random.default_rng(0)
    side = spec.model.resolution
    shape = (STEPS, spec.batches_per_step, spec.global_batch_size)
    images = rng.integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, shape, dtype=np.int32)
    rows = []
    for step in range(STEPS):
      batch = to_global(
        Batch(images[step], labels[step]), batch_sharding(built.mesh)
      )
      state, scalars = one_step(state, batch)
      rows.append(jax.device_get(scalars))
    return rows, jax.device_get(state)


def worst(a, b) -> float:
  """Largest difference, relative to the largest entry of each array."""
  differences = jax.tree.map(
    lambda x, y: float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), 1e-12)),
    a,
    b,
  )
  return max(jax.tree.leaves(differences))


def learned(state):
  """Everything but Adam's moments.

  The bias before a batch norm has no gradient but round-off, and its moments
  are the squares of that; they are compared on the scale of the network.
  """
  players = [p._replace(optimizer=()) for p in (state.g, state.d)]
  return players, state.ema


def moments_differ_by(state, other) -> float:
  a, b = (
    jax.tree.leaves((s.g.optimizer, s.d.optimizer)) for s in (state, other)
  )
  largest = max(float(np.max(np.abs(x))) for x in a)
  pairs = zip(a, b, strict=True)
  return max(float(np.max(np.abs(x - y))) for x, y in pairs) / largest


def slow(*case):
  return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("name", "devices"),
  [
    ("r3gan", 2),
    slow("r3gan", 4),
    ("r3gan", 8),
    slow("biggan", 2),
    ("biggan", 4),
    slow("biggan", 8),
  ],
)
def test_float64_agrees_on_any_device_count(name, devices):
  """Proves the logic: nothing depends on how samples are spread."""
  rows, state = trained(name, 1, "float64")
  other_rows, other_state = trained(name, devices, "float64")
  assert worst(rows, other_rows) < 1e-8
  assert worst(learned(state), learned(other_state)) < 1e-8
  assert moments_differ_by(state, other_state) < 1e-8


@pytest.mark.parametrize(
  ("name", "devices"),
  [
    slow("r3gan", 2),
    ("r3gan", 4),
    slow("r3gan", 8),
    slow("biggan", 2),
    slow("biggan", 4),
    slow("biggan", 8),
  ],
)
def test_float32_metrics_agree_on_any_device_count(name, devices):
  rows, _ = trained(name, 1, "float32")
  other_rows, _ = trained(name, devices, "float32")
  for row, other in zip(rows, other_rows, strict=True):
    assert worst(row, other) < 1e-4


def test_initial_state_does_not_depend_on_devices():
  spec = tiny_r3gan("float32")
  built = build(spec, make_mesh(MeshSpec(), jax.devices()))
  init = built.init.lower().compile(fast_compile.OPTIONS)
  assert worst(first_state("r3gan", "float32"), jax.device_get(init())) < 1e-6


def test_float64_runs_in_float64():
  rows, state = trained("biggan", 1, "float64")
  assert rows[0]["d/loss"].dtype == np.float64
  assert jax.tree.leaves(state.g.params)[0].dtype == np.float64


def test_noise_depends_on_attempt_step_and_seed():
  spec = tiny_r3gan("float32")
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  batch = Batch(
    jnp.zeros((2, 8, 8, 8, 3), jnp.uint8), jnp.zeros((2, 8), jnp.int32)
  )

  init = built.init.lower().compile(fast_compile.OPTIONS)
  one_step = built.step.lower(
    built.abstract_state, built.abstract_batch
  ).compile(fast_compile.OPTIONS)

  def loss(attempt: int, step: int) -> float:
    state = init()
    state = state._replace(
      attempt=state.attempt + attempt, step=state.step + step
    )
    return float(one_step(state, batch)[1]["g/loss"])

  base = loss(0, 0)
  assert loss(0, 0) == base
  assert loss(1, 0) != base
  assert loss(0, 1) != base


def test_state_is_donated():
  """The step must not hold two copies of the state."""
  spec = tiny_r3gan("float32")
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  compiled = built.step.lower(
    built.abstract_state, built.abstract_batch
  ).compile(fast_compile.OPTIONS)
  held = sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(built.abstract_state)
  )
  assert compiled.memory_analysis().alias_size_in_bytes >= 0.99 * held


def test_average_follows_the_half_life():
  rows, state = trained("r3gan", 1, "float64")
  assert np.isclose(rows[0]["ema/decay"], 0.5 ** (8 / 20))
  moved = worst(state.ema.params, state.g.params)
  assert 0 < moved < 1
