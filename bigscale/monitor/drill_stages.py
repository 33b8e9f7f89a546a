"""The small trainings that drills disturb. Models and images are real.

The tuning set was used to choose thresholds. The published table scores the
test set. The two sets differ in model, resolution, seeds and sizes of faults.
"""

import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict

from bigscale.metrics.evaluator import Evaluator
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import RunSpec, from_config
from bigscale.train.build import Built, build
from bigscale.train.disturb import Step
from bigscale.train.hooks import evaluator_of

# Steps between scores and between probes. A drill imitates a long run.
SCORE_STEPS = 50
LOOK_STEPS = 5
WARMUP = 150
# Divisor of the batch size in the control `small_batch`.
SMALL = 4


def _r3gan(
  resolution: int, widths: tuple[int, ...], gamma: float
) -> dict[str, Any]:
  return {
    "model": {
      "name": "r3gan",
      "resolution": resolution,
      "image_channels": 1,
      "num_classes": 10,
      "latent_dim": 16,
      "widths": widths,
      "blocks": (1,) * len(widths),
      "cardinality": tuple(width // 8 for width in widths),
      "class_embedding_dim": 8,
      "spectra_interval": LOOK_STEPS,
    },
    "loss": {"adversarial": "rpgan", "r1_gamma": gamma, "r2_gamma": gamma},
    "optim": {
      "g_lr": 2e-3,
      "d_lr": 2e-3,
      "beta2": 0.95,
      "ema_half_life_kimg": 0.6,
    },
  }


def _biggan() -> dict[str, Any]:
  return {
    "model": {
      "name": "biggan",
      "resolution": 32,
      "image_channels": 1,
      "num_classes": 10,
      "latent_dim": 32,
      "g_width": 4,
      "d_width": 4,
      "hierarchical": False,
      "shared_dim": 8,
      "spectra_interval": LOOK_STEPS,
    },
    "loss": {"adversarial": "hinge"},
    "optim": {
      "g_lr": 4e-4,
      "d_lr": 4e-4,
      "beta2": 0.99,
      "ema_decay": 0.98,
    },
  }


def _stripped() -> dict[str, Any]:
  return {
    "model": {
      "name": "stripped_stylegan2",
      "resolution": 16,
      "image_channels": 1,
      "num_classes": 10,
      "latent_dim": 16,
      "widths": (32, 24, 16),
      "class_embedding_dim": 8,
      "spectra_interval": LOOK_STEPS,
    },
    "loss": {"adversarial": "non_saturating", "r1_gamma": 1.0, "r2_gamma": 1.0},
    "optim": {
      "g_lr": 1e-3,
      "d_lr": 1e-3,
      "beta2": 0.95,
      "ema_half_life_kimg": 0.6,
    },
  }


# By name: the settings, the batch size, the number of steps.
STAGES: dict[str, tuple[dict[str, Any], int, int]] = {
  "r3gan_8": (_r3gan(8, (32, 16), 0.1), 32, 700),
  "r3gan_16": (_r3gan(16, (32, 16, 16), 0.3), 16, 700),
  "biggan_32": (_biggan(), 16, 700),
  "stripped_16": (_stripped(), 16, 700),
}
TUNING = ("r3gan_8",)
TEST = ("r3gan_16", "biggan_32", "stripped_16")


class Stage:
  """Programs, classifier and reals that all drills of a model share."""

  def __init__(self, name: str) -> None:
    self.name = name

  def spec(
    self,
    steps: int | None = None,
    *,
    seed: int = 0,
    divisor: int = 1,
    **monitor: Any,
  ) -> RunSpec:
    """Returns the spec of a drill's run.

    Args:
      steps: number of steps; None uses the number in `STAGES`.
      seed: seed of the run.
      divisor: divisor of the batch size in `STAGES`.
      **monitor: fields of `MonitorSpec`.
    """
    settings, batch, usual_steps = STAGES[self.name]
    steps = usual_steps if steps is None else steps
    batch //= divisor
    kimg = batch / 1000
    config = {
      **settings,
      "seed": seed,
      "global_batch_size": batch,
      "total_kimg": steps * kimg,
      "data": {"source": "fashion_mnist"},
      "mesh": {"data": 1},
      "evaluate": {
        "kimg": SCORE_STEPS * kimg,
        "num_samples": 500,
        "batch_size": 250,
      },
      "log": {"steps": 1, "num_samples": 100, "tensorboard": False},
      # Keeps all checkpoints, because other drills may start from any of them.
      "checkpoint": {"keep": steps // SCORE_STEPS + 1},
      "monitor": {
        "interval": LOOK_STEPS,
        "num_samples": 64,
        "snapshot_interval": 20,
        "snapshots": 12,
        "verdict": {"warmup": WARMUP, "quiet": 60},
        **monitor,
      },
    }
    return from_config(ConfigDict(config))

  @functools.cached_property
  def built(self) -> Built:
    """The run, compiled once for all seeds."""
    spec = self.spec()
    return build(spec, make_mesh(spec.mesh))

  @functools.cached_property
  def small_batch(self) -> Built:
    """The run with a quarter of the batch size."""
    spec = self.spec(divisor=SMALL)
    return build(spec, make_mesh(spec.mesh))

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Evaluator of the data at the model's resolution."""
    return evaluator_of(self.spec())

  def wrong_beta2(self) -> Step:
    """Returns the step with beta2 = 0 in Adam."""
    return self._wrong_beta2.step

  @functools.cached_property
  def _wrong_beta2(self) -> Built:
    spec = self.spec()
    zero = dataclasses.replace(spec.optim.beta2, first=0.0, last=0.0)
    optim = dataclasses.replace(spec.optim, beta2=zero)
    spec = dataclasses.replace(spec, optim=optim)
    return build(spec, make_mesh(spec.mesh))
