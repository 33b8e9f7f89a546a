"""Small runs that use every feature that could depend on devices."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.rows import local_rows, to_global
from bigscale.parallel.sharding import batch_sharding, replicated
from bigscale.spec import MeshSpec, RunSpec, from_config
from bigscale.train.build import build
from bigscale.train.step import GanStep
from bigscale.types import Batch
from tests import fast_compile

STEPS = 10
BATCH = 16


class Case(NamedTuple):
  """One configuration of a tiny training.

  Attributes:
    model: a key of `FAMILIES`.
    dtype: dtype of parameters and computation.
    mesh: sizes of `data` and `fsdp`.
    weights: weight mode.
    microbatches: number of microbatches per batch.
    device_batch: limit of the samples that a device computes at once.
    group: batch norm group size in samples; 0 means the whole batch.
    permuted: whether samples are summed in another order.
    d_steps: D updates per step; 0 means two for BigGANs and one for R3GAN.
    update: update mode of spectral and batch norm in BigGAN. With `step`,
      averages over microbatches equal those of one batch.
    interval: interval of R3GAN's penalties in steps.
  """

  model: str
  dtype: str = "float64"
  mesh: tuple[int, int] = (1, 1)
  weights: str = "replicated"
  microbatches: int = 1
  group: int = 0
  permuted: bool = False
  d_steps: int = 0
  update: str = "step"
  interval: int = 1
  device_batch: int = 0

  @property
  def reference(self) -> "Case":
    """Returns the case on one device, without microbatches if equivalent."""
    parts = self.microbatches if self.update == "forward" else 1
    return self._replace(
      mesh=(1, 1),
      weights="replicated",
      microbatches=parts,
      permuted=False,
      device_batch=0,
    )

  @property
  def name(self) -> str:
    """Name of the case in test IDs and array files."""
    mesh = "x".join(map(str, self.mesh))
    parts = [self.model, mesh, self.weights, f"{self.microbatches}parts"]
    return "-".join(parts + [f"{self.d_steps}d"] * bool(self.d_steps))


def r3gan(case: Case) -> dict:
  """R1 and R2 in every step, ADA, labels, schedules."""
  return {
    "model": {
      "name": "r3gan",
      "resolution": 8,
      "num_classes": 3,
      "latent_dim": 8,
      "widths": (16, 8),
      "blocks": (1, 1),
      "cardinality": (2, 2),
      "class_embedding_dim": 4,
      "num_singular_values": 2,
      "spectra_interval": 2,
      "dtype": case.dtype,
    },
    "loss": {
      "adversarial": "rpgan",
      "r1_gamma": 0.5,
      "r2_gamma": 0.5,
      "penalty_interval": case.interval,
    },
    "augment": {
      "pipe": "ada",
      "transforms": ("blit", "color", "cutout"),
      "probability": 0.5,
      "target": 0.1,
      "target_interval": 2,
      "target_kimg": 0.1,
    },
    "optim": {
      "g_lr": {"first": 2e-4, "last": 1e-4, "kimg": 0.08},
      "d_lr": 2e-4,
      "beta2": {"first": 0.9, "last": 0.99, "kimg": 0.08},
      "ema_half_life_kimg": 0.02,
    },
  }


def r3gan_small(case: Case) -> dict:
  """As `r3gan`, at 4 px with one penalty and one transform."""
  config = r3gan(case)
  config["model"] |= {
    "resolution": 4,
    "widths": (8,),
    "blocks": (1,),
    "cardinality": (2,),
  }
  del config["loss"]["r2_gamma"]
  config["augment"]["transforms"] = ("color",)
  return config


def biggan(case: Case) -> dict:
  """Hierarchical latents, shared embedding, attention, two D steps, ..."""
  return {
    "model": {
      "name": "biggan",
      "resolution": 32,
      "num_classes": 3,
      "latent_dim": 16,
      "g_width": 4,
      "d_width": 4,
      "shared_dim": 4,
      "g_attention": (16,),
      "d_attention": (16,),
      "num_singular_values": 2,
      "batch_norm_group_size": case.group,
      "batch_norm_update": case.update,
      "spectral_update": case.update,
      "dtype": case.dtype,
    },
    "loss": {"adversarial": "hinge", "orthogonal": 1e-4},
    "optim": {"g_lr": 1e-4, "d_lr": 4e-4, "d_steps": 2, "ema_decay": 0.9},
  }


def biggan_small(case: Case) -> dict:
  """As `biggan`, at 8 px with one block of G and two of D."""
  config = biggan(case)
  config["model"] |= {
    "resolution": 8,
    "latent_dim": 8,
    "g_attention": (8,),
    "d_attention": (4,),
    "num_singular_values": 1,
  }
  return config


def biggan_deep(case: Case) -> dict:
  """The smallest possible model: 64 px, one block per network."""
  config = biggan(case)
  config["model"] |= {
    "name": "biggan_deep",
    "resolution": 64,
    "g_depth": 1,
    "d_depth": 1,
  }
  return config


FAMILIES = {
  "r3gan": r3gan,
  "r3gan_small": r3gan_small,
  "biggan": biggan,
  "biggan_small": biggan_small,
  "biggan_deep": biggan_deep,
}
# Steps of these families would be ten times slower if compiled fast.
COMPILED_WELL = ("biggan", "biggan_deep")


def spec_of(case: Case) -> RunSpec:
  """Returns the spec of the run on the case's mesh."""
  config = FAMILIES[case.model](case)
  config["optim"]["microbatches"] = case.microbatches
  config["optim"]["device_batch"] = case.device_batch
  if case.d_steps:
    config["optim"]["d_steps"] = case.d_steps
  return from_config(
    {
      "global_batch_size": BATCH,
      "total_kimg": 1.0,
      "data": {"source": "emoji"},
      "mesh": {
        "data": case.mesh[0],
        "fsdp": case.mesh[1],
        "weights": case.weights,
        # Split every leaf that can be split.
        "min_split_elements": 2,
      },
      **config,
    }
  )


class PermutedStep(GanStep):
  """A step with the samples, and their random numbers, in another order."""

  def _samples(self, *of_update):
    samples = super()._samples(*of_update)
    order = np.random.default_rng(0).permutation(BATCH)
    return jax.tree.map(lambda x: x[order], samples)


@functools.cache
def compiled(case: Case):
  """Returns the built run and its compiled step."""
  spec = spec_of(case)
  devices = jax.devices()[: case.mesh[0] * case.mesh[1]]
  with jax.enable_x64(case.dtype == "float64"):
    built = build(spec, make_mesh(spec.mesh, devices))
    well = case.model in COMPILED_WELL
    options = {} if well else fast_compile.OPTIONS
    step = built.step
    if case.permuted:
      step = jax.jit(PermutedStep(built.model, spec))
    step = step.lower(built.abstract_state, built.abstract_batch).compile(
      options
    )
  return built, step


@functools.cache
def first_state(model: str, dtype: str):
  """Returns the initial state on the host."""
  case = Case(model, dtype)
  spec = spec_of(case)
  with jax.enable_x64(dtype == "float64"):
    built = build(spec, make_mesh(MeshSpec(), jax.local_devices()[:1]))
    init = built.init.lower().compile(fast_compile.OPTIONS)
    return jax.device_get(init())


def data(case: Case) -> Batch:
  """Returns noise batches [STEPS, K, B, ...], equal for a model's cases."""
  spec = spec_of(case)
  rng = np.random.default_rng(0)
  side = spec.model.resolution
  shape = (STEPS, spec.batches_per_step, spec.global_batch_size)
  images = rng.integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)
  labels = rng.integers(0, 3, shape, dtype=np.int32)
  return Batch(images, labels)


@functools.cache
def trained(case: Case, steps: int = STEPS):
  """Returns the scalars of each step and the final state, on the host."""
  built, step = compiled(case)
  batches = data(case)
  with jax.enable_x64(case.dtype == "float64"):
    shardings = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)
    state = jax.tree.map(
      lambda x, sharding: jax.make_array_from_callback(
        np.shape(x), sharding, np.asarray(x).__getitem__
      ),
      first_state(case.model, case.dtype),
      shardings,
    )
    rows = []
    sharding = batch_sharding(built.mesh)
    here = local_rows(sharding, BATCH)
    for index in range(steps):
      batch = Batch(batches.images[index], batches.labels[index])
      batch = jax.tree.map(lambda x: x[:, here], batch)
      state, scalars = step(state, to_global(batch, sharding))
      rows.append(jax.device_get(scalars))
    if jax.process_count() > 1:
      gather = jax.jit(lambda x: x, out_shardings=replicated(built.mesh))
      state = gather(state)
    return rows, jax.device_get(state)


def worst(a, b) -> float:
  """Returns the largest difference, relative to each array's maximum."""
  differences = jax.tree.map(
    lambda x, y: float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), 1e-12)),
    a,
    b,
  )
  return max(jax.tree.leaves(differences))


def learned(state):
  """Returns everything except Adam's moments.

  The bias before a batch norm has zero gradient up to rounding, and its moments
  are the squares of rounding errors. They are compared on the network's scale.
  """
  players = [p._replace(optimizer=()) for p in (state.g, state.d)]
  return players, state.ema, state.augment


def moments_differ_by(state, other) -> float:
  a, b = (
    jax.tree.leaves((s.g.optimizer, s.d.optimizer)) for s in (state, other)
  )
  largest = max(float(np.max(np.abs(x))) for x in a)
  pairs = zip(a, b, strict=True)
  return max(float(np.max(np.abs(x - y))) for x, y in pairs) / largest
