r"""The roadmap of the R3GAN paper, from StyleGAN2 to R3GAN, on FFHQ at 256 px.

  bigscale train --config=r3gan_roadmap:B --workdir=runs/b \
      --config.data.source=/data/ffhq256

| argument | networks | loss | G, D (M) | FLOP | FID |
|---|---|---|---|---|---|
| B | stripped StyleGAN2 | GAN + R1 | 18.890, 23.996 | 4.2e18 | 12.46 |
| C | as B | RpGAN + R1 + R2 | 18.890, 23.996 | 5.3e18 | 11.65 |
| D | plain bottleneck ResNet | as C | 23.378, 23.282 | 4.9e18 | 9.95 |
| E | R3GAN: grouped, inverted | as C | 23.058, 23.010 | 5.5e18 | 7.05 |

Source: Huang et al. 2024, sec. 3 and 4.1. Each run shows 5 million images to D,
and the FIDs are those of these short runs. configs/r3gan.py:ffhq256 is the full
run of E, with FID 2.75. Config A, StyleGAN2 itself (7.52), is not included. The
paper states no hardware for these runs. FLOP are for 5 million images, computed
from layer shapes (`docs/reference/flops.md`).

The paper changes two settings of config A, which uses StyleGAN2-ADA's
`paper256`: z has 64 entries, and the learning rate is reduced from 2.5e-3 to
5e-5. The other settings stay: batch 64, Adam with beta1 0 and beta2 0.99,
moving average with a half-life of 20 kimg, mirrored images. These settings,
which the paper does not state, are our choice: gamma is `paper256`'s 1 for R1
and R2 in all four configs, the learning rate of B is used for all, there are no
schedules and no augmentation, and penalties are computed in every step (the
paper removes lazy regularization). B and C compute in float32, D and E with E's
bfloat16 stages.
"""

import dataclasses

from ml_collections import ConfigDict

from bigscale.configs.r3gan import shrink
from bigscale.models import r3gan
from bigscale.models import stripped_stylegan2 as stripped
from bigscale.spec import choose_preset

MODELS = {
  "B": stripped.PRESETS["B"],
  "C": stripped.PRESETS["B"],
  "D": r3gan.PRESETS["D"],
  "E": r3gan.PRESETS["E"],
}
ARGS = tuple(MODELS)


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the settings of one config of the roadmap.

  `data.source` is a directory of shards.
  """
  model = choose_preset(MODELS, arg, "configs/r3gan_roadmap.py")
  loss = {"adversarial": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0}
  if arg == "B":
    loss = {"adversarial": "non_saturating", "r1_gamma": 1.0, "r2_gamma": 0.0}
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 64,
      "total_kimg": 5_000.0,
      "model": dataclasses.asdict(model),
      "data": {"source": "data/ffhq256", "flip": True},
      "loss": loss,
      "optim": {
        "g_lr": 5e-5,
        "d_lr": 5e-5,
        "beta1": 0.0,
        "beta2": 0.99,
        "epsilon": 1e-8,
        "ema_half_life_kimg": 20.0,
      },
      "evaluate": {"kimg": 500.0, "num_samples": 50_000, "batch_size": 250},
      "log": {"steps": 50, "samples_kimg": 250.0},
      "checkpoint": {"kimg": 250.0},
    }
  )


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  return shrink(get_config(arg))
