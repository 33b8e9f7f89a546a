"""Configures the short training runs of the drills.

They train real models on real images at low resolution.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
from ml_collections import ConfigDict

from bigscale.metrics.evaluator import Evaluator
from bigscale.monitor.drills import faulty_step
from bigscale.monitor.drills.disturbances import Tools
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import RunSpec, VerdictSpec, from_config
from bigscale.train.build import Built, build
from bigscale.train.disturb import Step
from bigscale.train.evaluation import evaluator_of

# How the monitor watches: `dense` looks every 10 steps, because a drill stands
# for a run that is many times longer; `shipped` uses the shipped settings.
Watch = Literal["dense", "shipped"]
WATCHES: tuple[Watch, ...] = ("dense", "shipped")
# Number of steps between two scores.
SCORE_STEPS = 50
_LOOK_STEPS = 10


class Watched(NamedTuple):
  """Settings of one `Watch`.

  Attributes:
    warmup: number of steps in which the verdict only learns.
    steps: number of steps of a run.
    spectra_interval: see `ModelBase`.
    monitor: fields of `MonitorSpec`.
  """

  warmup: int
  steps: int
  spectra_interval: int
  monitor: Mapping[str, Any]


WATCHED: Mapping[Watch, Watched] = {
  "dense": Watched(
    warmup=150,
    steps=600,
    spectra_interval=_LOOK_STEPS,
    monitor={
      "interval": _LOOK_STEPS,
      "num_samples": 64,
      "snapshot_interval": 20,
      "snapshots": 12,
      "verdict": {"warmup": 150, "quiet": 60},
    },
  ),
  "shipped": Watched(
    warmup=VerdictSpec().warmup,
    steps=800,
    spectra_interval=16,
    monitor={},
  ),
}


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
    },
    "loss": {"adversarial": "rpgan", "r1_gamma": gamma, "r2_gamma": gamma},
    "optim": {
      "g_lr": 2e-3,
      "d_lr": 2e-3,
      "beta2": 0.95,
      "ema_half_life_kimg": 0.6,
    },
  }


def _biggan(resolution: int, latent_dim: int) -> dict[str, Any]:
  return {
    "model": {
      "name": "biggan",
      "resolution": resolution,
      "image_channels": 1,
      "num_classes": 10,
      "latent_dim": latent_dim,
      "g_width": 4,
      "d_width": 4,
      "hierarchical": False,
      "shared_dim": 8,
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
    },
    "loss": {"adversarial": "non_saturating", "r1_gamma": 1.0, "r2_gamma": 1.0},
    "optim": {
      "g_lr": 1e-3,
      "d_lr": 1e-3,
      "beta2": 0.95,
      "ema_half_life_kimg": 0.6,
    },
  }


# Config and batch size of each stage.
STAGES: dict[str, tuple[dict[str, Any], int]] = {
  "r3gan_8": (_r3gan(8, (32, 16), 0.1), 32),
  "biggan_8": (_biggan(8, 16), 32),
  "r3gan_16": (_r3gan(16, (32, 16, 16), 0.3), 16),
  "biggan_32": (_biggan(32, 32), 16),
  "stripped_16": (_stripped(), 16),
}


def _with_half_rates(config: dict[str, Any]) -> dict[str, Any]:
  rates = {name: config["optim"][name] / 2 for name in ("g_lr", "d_lr")}
  return {**config, "optim": {**config["optim"], **rates}}


# Changes of a stage's config, and divisor of its batch size.
VARIANTS: Mapping[
  str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int]
] = {
  "": (lambda config: config, 1),
  "small_batch": (lambda config: config, 4),
  "half_rates": (_with_half_rates, 1),
  "diff_augment": (
    lambda config: {**config, "augment": {"pipe": "diffaugment"}},
    1,
  ),
}


class Stage:
  """Compiled programs and evaluator that the drills of one model share."""

  def __init__(self, name: str, watch: Watch = "dense") -> None:
    """Compiles nothing yet.

    Args:
      name: key of `STAGES`.
      watch: how the monitor watches.
    """
    self.name = name
    self.watch: Watch = watch
    self.watched = WATCHED[watch]
    self._built: dict[tuple[str, bool], Built] = {}

  @property
  def family(self) -> str:
    """Name of the model's family."""
    return STAGES[self.name][0]["model"]["name"]

  def spec(
    self,
    steps: int | None = None,
    *,
    seed: int = 0,
    variant: str = "",
    **monitor: Any,
  ) -> RunSpec:
    """Returns the spec of a drill's run.

    Args:
      steps: number of training steps; None for the default of the `Watch`.
      seed: the run's seed.
      variant: key of `VARIANTS`.
      **monitor: fields of `MonitorSpec`.
    """
    settings, batch = STAGES[self.name]
    change, divisor = VARIANTS[variant]
    settings = change(settings)
    steps = self.watched.steps if steps is None else steps
    batch //= divisor
    kimg = batch / 1000
    model = {
      **settings["model"],
      "spectra_interval": self.watched.spectra_interval,
    }
    config = {
      **settings,
      "model": model,
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
      # Keeps every checkpoint, because drills branch off at any of them.
      "checkpoint": {"keep": steps // SCORE_STEPS + 1},
      "monitor": {**self.watched.monitor, **monitor},
    }
    return from_config(ConfigDict(config))

  def built(self, variant: str = "", *, clamps: bool = False) -> Built:
    """Returns the functions of a run, compiled once for all seeds.

    Args:
      variant: key of `VARIANTS`.
      clamps: whether a rollback may clamp singular values, which is part of
        the program.
    """
    if (variant, clamps) not in self._built:
      clamping = {"action": "rollback", "interventions": ("clamp_sigma",)}
      spec = self.spec(variant=variant, **(clamping if clamps else {}))
      self._built[variant, clamps] = build(spec, make_mesh(spec.mesh))
    return self._built[variant, clamps]

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Evaluator of the data set at the stage's resolution."""
    return evaluator_of(self.spec())

  @functools.cached_property
  def tools(self) -> Tools:
    """Programs of the stage's disturbances."""
    return Tools(self._with_knobs, self._jitted)

  @functools.cached_property
  def _with_knobs(self) -> Callable[[Mapping[str, float]], Step]:
    return faulty_step.compile_step(self.built())

  def _jitted(self, change: Callable[..., Any]) -> Callable[..., Any]:
    shardings = jax.tree.map(
      lambda leaf: leaf.sharding, self.built().abstract_state
    )
    return jax.jit(change, out_shardings=shardings)
