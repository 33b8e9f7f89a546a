r"""BigGAN on ImageNet as published, at 128, 256 and 512 px, and related models.

  bigscale train --config=biggan:128 --workdir=runs/b128 \
      --config.data.source=/data/imagenet128

Source: Brock et al. 2019, sec. 3 and app. C: batch 2048, two D steps, Adam with
5e-5 for G and 2e-4 for D, moving average with decay 0.9999, orthogonal
regularization. `data.source` is a directory of shards.

| argument | published hardware and time | FLOP | expected FID / IS |
|---|---|---|---|
| 128 | 128 TPU v3 cores, 1 to 2 days | 1.4e20 | 8.7 +- 0.6 / 98.8 +- 3 |
| 256 | 256 TPU v3 cores, 1 to 2 days | 5.3e20 | 8.7 +- 0.1 / 142.3 +- 2 |
| 512 | 512 TPU v3 cores, 1 to 2 days | 8.8e20 | 8.1 / 144.2 |
| 512_z160 | as 512, with compare_gan's z | 8.8e20 | not published |
| 64 | not published | | not published |
| 32 | CIFAR-10 | | 14.73 / 9.22 |

FID and IS are from Table 2, "no truncation", and from app. C.2 for CIFAR-10,
with features of TensorFlow's Inception. They are quoted from memory; check the
paper before citing them. FLOP are computed from layer shapes for 150,000 steps
(`docs/reference/flops.md`). The paper's 128 px runs collapse near 150,000
steps; it does not state how long the others ran. The 64 px config also uses
150,000 steps. Sizes at 32 and 64 px are those of the authors' PyTorch code,
which takes 15 days at 128 px on 8 V100 GPUs, with batch 256 x 8 and one D step.

`loss.orthogonal` is the paper's beta = 1e-4, the factor of ||W^T W o (1 -
I)||^2. The authors' PyTorch code multiplies half of its gradient, so 1e-4 there
is 5e-5 here.
"""

import dataclasses

from ml_collections import ConfigDict

from bigscale.models.biggan import PRESETS
from bigscale.spec import ModelBase, choose_preset

ARGS = ("128", "32", "64", "256", "512", "512_z160")


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the paper's settings for one of `ARGS`."""
  presets = {name: PRESETS[name] for name in ARGS}
  config = recipe(choose_preset(presets, arg, "configs/biggan.py"))
  if arg == "32":
    config.data.source = "data/cifar10"
    # 1,000 epochs; the paper does not state the length.
    config.total_kimg = 50_000.0
  return config


def recipe(model: ModelBase) -> ConfigDict:
  """Returns the paper's training settings for any BigGAN on ImageNet."""
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 2048,
      # 150,000 steps with two D updates each.
      "total_kimg": 614_400.0,
      "model": dataclasses.asdict(model),
      "data": {
        "source": f"data/imagenet{model.resolution}",
        "flip": False,
      },
      "loss": {"adversarial": "hinge", "orthogonal": 1e-4},
      "optim": {
        "g_lr": 5e-5,
        "d_lr": 2e-4,
        "beta1": 0.0,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "d_steps": 2,
        "ema_decay": 0.9999,
      },
      "evaluate": {"kimg": 8192.0, "num_samples": 50_000, "batch_size": 1024},
      "log": {"steps": 50, "samples_kimg": 2048.0},
      "checkpoint": {"kimg": 2048.0},
    }
  )


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  return shrink(get_config(arg))


def shrink(config: ConfigDict, resolution: int = 32) -> ConfigDict:
  """Returns a config for a narrow model of the same kind on the emoji."""
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.data.source = "emoji"
  model = config.model
  model.resolution = resolution
  model.num_classes = 9
  # One chunk for the first layer and for each of the 3 blocks (4 at 64 px).
  model.latent_dim = 20
  model.g_width = model.d_width = 8
  model.shared_dim = min(model.shared_dim, 8)
  model.g_attention = (16,) if model.g_attention else ()
  model.d_attention = (16,) if model.d_attention else ()
  return config
