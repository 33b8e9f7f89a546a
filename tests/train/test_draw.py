"""One forward pass of G for all updates of D gives what one for each gives."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import from_config
from bigscale.train.build import build
from bigscale.train.draw import Draw
from bigscale.types import Batch
from tests import fast_compile
from tests.parallel.tiny_gans import learned, moments_differ_by, worst

BATCH = 16


class Case(NamedTuple):
  """Of a training of two steps, of two or three updates of D each."""

  model: str = "biggan"
  mesh: tuple[int, int] = (1, 1)
  weights: str = "replicated"
  microbatches: int = 1
  group: int = 0
  d_steps: int = 2
  at_once: bool = False


MODELS = {
  "biggan": {
    "num_classes": 3,
    "latent_dim": 6,
    "g_width": 2,
    "d_width": 2,
    "shared_dim": 2,
    "g_attention": (),
    "d_attention": (),
    "num_singular_values": 1,
    "spectral_update": "step",
    "batch_norm_update": "step",
  },
  "r3gan": {
    "latent_dim": 4,
    "widths": (8, 8),
    "blocks": (1, 1),
    "cardinality": (2, 2),
  },
}
LOSSES = {
  "biggan": {"adversarial": "hinge"},
  "r3gan": {"adversarial": "rpgan", "r1_gamma": 0.1, "r2_gamma": 0.1},
}


def spec_of(case):
  model = {"name": case.model, "resolution": 8, "dtype": "float64"}
  if case.model == "biggan":
    model["batch_norm_group_size"] = case.group
  return from_config(
    {
      "global_batch_size": BATCH,
      "total_kimg": 1.0,
      "model": model | MODELS[case.model],
      "loss": LOSSES[case.model],
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
  """Scalars of two steps, and the state after them."""
  spec = spec_of(case)
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    mesh = make_mesh(spec.mesh, jax.devices()[: np.prod(case.mesh)])
    built = build(spec, mesh)
    state = built.init.lower().compile(fast_compile.OPTIONS)()
    step = built.step.lower(built.abstract_state, built.abstract_batch)
    step = step.compile(fast_compile.OPTIONS)
    images, labels = built.abstract_batch
    rows = []
    for _ in range(2):
      batch = Batch(
        rng.integers(0, 256, images.shape, np.uint8),
        rng.integers(0, 3, labels.shape, np.int32),
      )
      state, scalars = step(
        state, jax.device_put(batch, Batch(images.sharding, labels.sharding))
      )
      rows.append(jax.device_get(scalars))
    return rows, jax.device_get(state)


@pytest.mark.parametrize(
  "case",
  [
    Case(mesh=(2, 2), weights="zero", microbatches=2),
    Case("r3gan", mesh=(2, 2), weights="fsdp", microbatches=2),
    pytest.param(Case(d_steps=3), marks=pytest.mark.slow),
    pytest.param(
      Case(mesh=(2, 2), weights="fsdp", group=2), marks=pytest.mark.slow
    ),
    pytest.param(
      Case(mesh=(2, 1), microbatches=2, group=4), marks=pytest.mark.slow
    ),
  ],
  ids=str,
)
def test_the_same_numbers(case):
  """On one device with a pass for each update, and as the case has it."""
  apart = case._replace(mesh=(1, 1), weights="replicated")
  if case.group:
    # A group stays in one microbatch.
    apart = apart._replace(microbatches=1)
  rows, state = trained(apart)
  other_rows, other = trained(case._replace(at_once=True))
  assert worst(rows, other_rows) < 1e-8
  assert worst(learned(state), learned(other)) < 1e-8
  assert moments_differ_by(state, other) < 1e-8


@pytest.mark.parametrize(
  ("update", "microbatches", "together"),
  [("step", 2, True), ("forward", 1, True), ("forward", 2, False)],
)
def test_statistics_in_turn_keep_updates_apart(update, microbatches, together):
  """The second update starts where the last microbatch of the first ended."""
  config = MODELS["biggan"] | {"batch_norm_update": update}
  spec = from_config(
    {
      "global_batch_size": 8,
      "total_kimg": 1.0,
      "model": {"name": "biggan", "resolution": 8, **config},
      "loss": LOSSES["biggan"],
      "optim": {"g_lr": 1e-3, "d_lr": 1e-3, "microbatches": microbatches},
      "data": {"source": "emoji"},
    }
  )
  placement = Placement(make_mesh(spec.mesh, jax.devices()[:1]))
  assert Draw(None, spec, placement).of_all_updates == together
