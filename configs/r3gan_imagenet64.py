r"""R3GAN on ImageNet, 64 px, as published: FID 2.09.

  bigscale train --config=configs/r3gan_imagenet64.py --workdir=runs/in64 \
      --config.data.source=/data/imagenet64

Source: Huang et al. 2024 and the authors' `train.py`. Their run: 1,000 million
images, batch 4096, on 64 GPUs. Generator 103.6 M and discriminator 107.2 M
parameters.

Not yet as theirs: the augmentation of reals and fakes (probability 0 to 0.4).
"""

from ml_collections import ConfigDict

from configs import r3gan_cifar10


def get_config() -> ConfigDict:
  """The authors' preset; `data.source` is a directory of shards."""
  burn_in = 200_000.0
  config = r3gan_cifar10.get_config()
  config.global_batch_size = 4096
  config.total_kimg = 1_000_000.0
  config.model.resolution = 64
  config.model.num_classes = 1000
  config.model.widths = (1536,) * 5
  config.model.blocks = (2,) * 5
  config.model.cardinality = (96,) * 5
  config.model.bf16_stages = 4
  config.data.source = "data/imagenet64"
  decay = {"first": 1.0, "last": 0.1, "kimg": burn_in}
  config.loss.r1_gamma = config.loss.r2_gamma = decay
  for schedule in (config.optim.g_lr, config.optim.d_lr, config.optim.beta2):
    schedule.kimg = burn_in
  half_life = {"first": 0.0, "last": 50_000.0, "kimg": burn_in}
  config.optim.ema_half_life_kimg = half_life
  config.evaluate.kimg = 10_000.0
  return config


def get_test_config() -> ConfigDict:
  """The same shape of run in a few seconds, on embedded images."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.widths = (16,) * 5
  config.model.blocks = (1,) * 5
  config.model.cardinality = (2,) * 5
  config.model.num_classes = 9
  config.data.source = "emoji"
  return config
