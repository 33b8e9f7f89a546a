"""Published training recipes, for imported weights without a config.

Sources: Brock et al. 2019, sec. 3 and app. C; Huang et al. 2024 and the presets
of the authors' `train.py`.
"""

import math
from typing import NamedTuple

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.r3gan import R3ganSpec
from bigscale.spec import (
  AugmentSpec,
  CheckpointSpec,
  DataSpec,
  EvalSpec,
  LogSpec,
  LossSpec,
  ModelBase,
  OptimSpec,
  RunSpec,
  Schedule,
  SpecError,
)


class Recipe(NamedTuple):
  """The spec of a published run, and its name."""

  spec: RunSpec
  name: str


class _R3ganPreset(NamedTuple):
  """The settings that differ between the authors' R3GAN presets.

  Attributes:
    name: name of the data set.
    resolution: height and width of the images, pixels.
    num_classes: number of classes, 0 without labels.
    batch: images per update.
    total_kimg: the paper's training length. If the paper does not state it, the
      authors' default, which means "until stopped".
    gamma: initial weight of R1 and R2; the final weight is a tenth of it.
    half_life_kimg: final half-life of the average.
    augment: final augmentation probability.
    burn_in_kimg: length of the schedules from the initial to the final values.
  """

  name: str
  resolution: int
  num_classes: int
  batch: int
  total_kimg: float
  gamma: float
  half_life_kimg: float
  augment: float
  burn_in_kimg: float


_R3GAN = (
  _R3ganPreset(
    "cifar10", 32, 10, 512, 250_000.0, 0.05, 5_000.0, 0.55, 20_000.0
  ),
  _R3ganPreset(
    "imagenet32", 32, 1000, 4096, 1_000_000.0, 0.5, 50_000.0, 0.5, 200_000.0
  ),
  _R3ganPreset("ffhq64", 64, 0, 256, 10_000_000.0, 2.0, 500.0, 0.3, 20_000.0),
  _R3ganPreset(
    "imagenet64", 64, 1000, 4096, 1_000_000.0, 1.0, 50_000.0, 0.4, 200_000.0
  ),
  _R3ganPreset(
    "ffhq256", 256, 0, 256, 10_000_000.0, 150.0, 500.0, 0.3, 20_000.0
  ),
)


def recipe(model: ModelBase, source: str | None) -> Recipe:
  """Returns the published recipe of a model's family.

  Args:
    model: spec of the model.
    source: data source; None uses the path in the recipe's configs, which need
      not exist.

  Raises:
    SpecError: there is no recipe for this family.
  """
  if isinstance(model, R3ganSpec):
    return _r3gan(model, source)
  if isinstance(model, BigganSpec | BigganDeepSpec):
    return _biggan(model, source)
  raise SpecError(
    f"there is no published recipe for model.name={model.name!r}; give --config"
  )


def _r3gan(model: R3ganSpec, source: str | None) -> Recipe:
  """Uses the preset with the nearest resolution, then number of classes."""

  def distance(preset: _R3ganPreset) -> tuple[float, float]:
    return (
      abs(math.log2(preset.resolution / model.resolution)),
      abs(math.log1p(preset.num_classes) - math.log1p(model.num_classes)),
    )

  preset = min(_R3GAN, key=distance)

  def decay(first: float, last: float) -> Schedule:
    return Schedule(first=first, last=last, kimg=preset.burn_in_kimg)

  gamma, lr = decay(preset.gamma, preset.gamma / 10), decay(2e-4, 5e-5)
  spec = RunSpec(
    global_batch_size=preset.batch,
    total_kimg=preset.total_kimg,
    model=model,
    data=DataSpec(source=source or f"data/{preset.name}", flip=True),
    loss=LossSpec(adversarial="rpgan", r1_gamma=gamma, r2_gamma=gamma),
    optim=OptimSpec(
      g_lr=lr,
      d_lr=lr,
      beta2=decay(0.9, 0.99),
      ema_half_life_kimg=decay(0.0, preset.half_life_kimg),
    ),
    augment=AugmentSpec(pipe="ada", probability=decay(0.0, preset.augment)),
    evaluate=EvalSpec(
      kimg=preset.burn_in_kimg / 10,
      num_samples=50_000,
      batch_size=1000 if model.resolution <= 64 else 250,
    ),
    log=LogSpec(steps=50, samples_kimg=500.0),
    checkpoint=CheckpointSpec(kimg=500.0),
  )
  return Recipe(spec, f"R3GAN's preset for {preset.name}")


def _biggan(model: BigganSpec | BigganDeepSpec, source: str | None) -> Recipe:
  """Uses batch 2048, hinge loss and two D steps.

  BigGAN-deep above 128 px has lower learning rates.
  """
  slow = isinstance(model, BigganDeepSpec) and model.resolution > 128
  g_lr, d_lr = (2.5e-5, 2.5e-5) if slow else (5e-5, 2e-4)
  spec = RunSpec(
    global_batch_size=2048,
    # 150,000 steps, about the point where the published 128 px run collapsed.
    total_kimg=614_400.0,
    model=model,
    data=DataSpec(source=source or f"data/imagenet{model.resolution}"),
    loss=LossSpec(adversarial="hinge", orthogonal=1e-4),
    optim=OptimSpec(
      g_lr=Schedule(first=g_lr, last=g_lr),
      d_lr=Schedule(first=d_lr, last=d_lr),
      d_steps=2,
      ema_decay=0.9999,
    ),
    evaluate=EvalSpec(kimg=8192.0, num_samples=50_000, batch_size=1024),
    log=LogSpec(steps=50, samples_kimg=2048.0),
    checkpoint=CheckpointSpec(kimg=2048.0),
  )
  return Recipe(spec, f"{model.name} as in Brock et al. 2019, app. C")
