"""R3GAN on the embedded emoji: 1,704 color images in 9 categories.

bigscale train --config=emoji_r3gan --workdir=runs/emoji
"""

from ml_collections import ConfigDict

from bigscale.configs import fashion_r3gan


def get_config() -> ConfigDict:
  """Returns the Fashion-MNIST settings changed to color images of 32 px."""
  config = fashion_r3gan.get_config()
  config.model.resolution = 32
  config.model.image_channels = 3
  config.model.num_classes = 9
  config.model.widths = (128, 128, 64, 32)
  config.model.blocks = (1, 1, 1, 1)
  config.model.cardinality = (16, 16, 8, 4)
  config.data.source = "emoji"
  # Mirrored text and flags are wrong.
  config.data.flip = False
  config.loss.r1_gamma = {"first": 4.0, "last": 4.0}
  config.loss.r2_gamma = {"first": 4.0, "last": 4.0}
  config.total_kimg = 200.0
  return config


def get_test_config() -> ConfigDict:
  """Returns a similar run that takes a few seconds."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.widths = (16, 16, 16, 16)
  config.model.cardinality = (2, 2, 2, 2)
  return config
