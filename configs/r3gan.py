r"""R3GAN as published; the argument is the data set.

  bigscale train --config=r3gan:cifar10 --workdir=runs/cifar10 \
      --config.data.source=/data/cifar10

`data.source` is a directory of shards.

| argument | classes | batch | Mimg | FLOP/image | their hardware, time | FID |
|---|---|---|---|---|---|---|
| cifar10 | 10 | 512 | 250 | 2.7e11 | 8 L40, 4 days | 1.96 |
| ffhq64 | none | 256 | until stopped | 4.9e11 | 8 GPUs | 1.95 |
| ffhq256 | none | 256 | until stopped | 1.1e12 | 8 A6000, 3 weeks | 2.75 |
| imagenet32 | 1000 | 4096 | 1000 | 1.1e12 | 32 H100 | 1.27 |
| imagenet64 | 1000 | 4096 | 1000 | 4.3e12 | 64 GPUs | 2.09 |
| stacked_mnist | none | 512 | 20 | 2.7e11 | 8 L40, 7 hours | 1000 modes |

Source: Huang et al. 2024, sec. 4 and app. D, and the authors' `train.py`: Adam
with beta1 0, and RpGAN with R1 and R2 in every step. During the burn-in, these
settings change along a cosine: the learning rate from 2e-4 to 5e-5, beta2 from
0.9 to 0.99, gamma to a tenth, and the half-life of the moving average and the
probability of the augmentation from 0 to their final values. An ImageNet model
took about 5,000 H100 hours. The authors stop when FID saturates; the configs
use their default length of 10,000 Mimg. FLOP include both updates and are
computed from layer shapes (`docs/reference/flops.md`).

The authors' code does not include Stacked MNIST. According to the paper, it
uses CIFAR-10's model without classes, no augmentation, a constant learning
rate, and a "considerably" shorter burn-in. The burn-in (a tenth), gamma, the
half-life and the length are our choice. The length of 20 Mimg is 7 hours at the
speed of their CIFAR-10 run. Digits are not mirrored. Digits of 28 px are padded
to 32 px when the data set is built (`data build --padding=2`).
"""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from bigscale.models.r3gan import PRESETS
from bigscale.spec import choose_preset


class Row(NamedTuple):
  """Settings that differ between the authors' presets.

  Attributes:
    batch: images per update.
    total_kimg: thousand images shown to D.
    burn_in_kimg: length of the schedules in thousand images.
    gamma: gamma of R1 and R2 at the start; it falls to a tenth in the burn-in.
    half_life_kimg: half-life of the moving average after the burn-in, in
      thousand images.
    augment: probability of each transform after the burn-in; 0 disables
      augmentation.
    last_lr: learning rate after the burn-in.
  """

  batch: int
  total_kimg: float
  burn_in_kimg: float
  gamma: float
  half_life_kimg: float
  augment: float
  last_lr: float = 5e-5


_UNTIL_STOPPED = 10_000_000.0
ROWS = {
  "cifar10": Row(512, 250_000.0, 20_000.0, 0.05, 5_000.0, 0.55),
  "ffhq64": Row(256, _UNTIL_STOPPED, 20_000.0, 2.0, 500.0, 0.3),
  "ffhq256": Row(256, _UNTIL_STOPPED, 20_000.0, 150.0, 500.0, 0.3),
  "imagenet32": Row(4096, 1e6, 200_000.0, 0.5, 50_000.0, 0.5),
  "imagenet64": Row(4096, 1e6, 200_000.0, 1.0, 50_000.0, 0.4),
  "stacked_mnist": Row(512, 20_000.0, 2_000.0, 1.0, 500.0, 0.0, last_lr=2e-4),
}
ARGS = tuple(ROWS)


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the authors' settings for one of `ARGS`."""
  row = choose_preset(ROWS, arg, "configs/r3gan.py")
  model = PRESETS[arg]

  def burn_in(first: float, last: float) -> dict[str, float]:
    return {"first": first, "last": last, "kimg": row.burn_in_kimg}

  lr, gamma = burn_in(2e-4, row.last_lr), burn_in(row.gamma, row.gamma / 10)
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": row.batch,
      "total_kimg": row.total_kimg,
      "model": dataclasses.asdict(model),
      "data": {"source": f"data/{arg}", "flip": arg != "stacked_mnist"},
      "loss": {"adversarial": "rpgan", "r1_gamma": gamma, "r2_gamma": gamma},
      "augment": {
        "pipe": "ada" if row.augment else "none",
        "probability": burn_in(0.0, row.augment),
      },
      "optim": {
        "g_lr": lr,
        "d_lr": lr,
        "beta1": 0.0,
        "beta2": burn_in(0.9, 0.99),
        "epsilon": 1e-8,
        "ema_half_life_kimg": burn_in(0.0, row.half_life_kimg),
      },
      "evaluate": {
        "kimg": row.burn_in_kimg / 10,
        "num_samples": 50_000,
        "batch_size": 1000 if model.resolution <= 64 else 250,
      },
      "log": {"steps": 50, "samples_kimg": 500.0},
      "checkpoint": {"kimg": 500.0},
    }
  )


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  return shrink(get_config(arg))


def shrink(config: ConfigDict) -> ConfigDict:
  """Returns a config for a narrow 16 px model of the same kind on the emoji."""
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.data.source = "emoji"
  config.evaluate = {
    "num_samples": 200,
    "batch_size": 100,
    "classifier_steps": 20,
  }
  config.log.num_samples = 9
  model = config.model
  model.resolution = 16
  model.num_classes = 9 if model.num_classes else 0
  model.widths = (16, 16, 8)
  if model.name == "r3gan":
    model.blocks = (1, 1, 1)
    model.cardinality = tuple(min(2, n) for n in model.cardinality[:3])
    model.bf16_stages = min(1, model.bf16_stages)
  return config
