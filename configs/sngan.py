r"""SN-GAN with projection on ImageNet at 128 px: IS 36.8, FID 27.62.

  bigscale train --config=sngan --workdir=runs/sngan \
      --config.data.source=/data/imagenet128

This predecessor of BigGAN has spectral norm only in D, no attention, and five D
steps. D uses labels in a projection, and G in tables of every batch norm.

Source: Miyato et al. 2018, Miyato and Koyama 2018, and their Chainer code:
hinge loss, Adam with learning rate 2e-4, beta1 0 and beta2 0.9, batch 64 on 4
GPUs. They report IS 29.7 after 450,000 steps and 36.8 after 850,000; this
config uses 850,000. The FID is from Brock et al. 2019, Table 2, quoted from
memory.

Differences: the authors decrease the learning rates to 0 in the last 50,000
steps, use twice D's batch for G, and initialize with Glorot's method.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan
from bigscale.models.biggan import PRESETS


def get_config() -> ConfigDict:
  """Returns the authors' settings; `data.source` is a directory of shards."""
  config = biggan.recipe(PRESETS["sngan_128"])
  config.global_batch_size = 64
  config.total_kimg = 850_000 * 5 * 64 / 1000
  config.loss.orthogonal = 0.0
  config.optim.g_lr = config.optim.d_lr = 2e-4
  config.optim.beta2 = 0.9
  config.optim.d_steps = 5
  # The authors sample G's weights without averaging.
  config.optim.ema_decay = 0.0
  config.evaluate.batch_size = 500
  return config


def get_test_config() -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  return biggan.shrink(get_config())
