r"""R3GAN on CIFAR-10, 32 px, as published: FID 1.96.

  bigscale train --config=configs/r3gan_cifar10.py --workdir=runs/cifar10 \
      --config.data.source=/data/cifar10

Source: Huang et al. 2024 and the authors' `train.py`. Their run: 250 million
images, batch 512, on 8 L40 in 4 days. Generator 20.78 M and discriminator
21.28 M parameters.

Not yet as theirs: the augmentation of reals and fakes (probability 0 to 0.55).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The authors' preset; `data.source` is a directory of shards."""
  burn_in = 20_000.0
  decay = {"first": 0.05, "last": 0.005, "kimg": burn_in}
  lr = {"first": 2e-4, "last": 5e-5, "kimg": burn_in}
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 512,
      "total_kimg": 250_000.0,
      "model": {
        "name": "r3gan",
        "resolution": 32,
        "image_channels": 3,
        "num_classes": 10,
        "latent_dim": 64,
        "widths": (768,) * 4,
        "blocks": (2,) * 4,
        "cardinality": (96,) * 4,
        "class_embedding_dim": 64,
        "bf16_stages": 3,
      },
      "data": {"source": "data/cifar10", "flip": True},
      "loss": {"adversarial": "rpgan", "r1_gamma": decay, "r2_gamma": decay},
      "optim": {
        "g_lr": lr,
        "d_lr": lr,
        "beta2": {"first": 0.9, "last": 0.99, "kimg": burn_in},
        "ema_half_life_kimg": {"first": 0.0, "last": 5000.0, "kimg": burn_in},
      },
      "evaluate": {"kimg": 2000.0, "num_samples": 50_000, "batch_size": 1000},
      "log": {"steps": 50, "samples_kimg": 500.0},
      "checkpoint": {"kimg": 500.0},
    }
  )


def get_test_config() -> ConfigDict:
  """The same shape of run in a few seconds, on embedded images."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.widths = (16, 16, 16, 16)
  config.model.blocks = (1, 1, 1, 1)
  config.model.cardinality = (2, 2, 2, 2)
  config.model.num_classes = 9
  config.data.source = "emoji"
  return config
