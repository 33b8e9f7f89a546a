"""R3GAN on two embedded sets at once: emoji and Fashion-MNIST, 19 classes.

bigscale train --config=chaos_embedded --workdir=runs/chaos

The small cousin of `configs/chaos_pod.py`. A quarter of the images are emoji,
although they are a sixth of all: each set has epochs of its own.
"""

from ml_collections import ConfigDict

from bigscale.configs import emoji_r3gan


def get_config() -> ConfigDict:
  """As the emoji run."""
  config = emoji_r3gan.get_config()
  config.model.num_classes = 19
  config.data = {
    "mixture": (
      {"source": "emoji", "share": 0.25},
      {"source": "fashion_mnist", "share": 0.75},
    ),
    "mixture_labels": "joint",
  }
  # As many as the held-out halves of the mixture allow to compare with.
  config.evaluate.num_samples = 2000
  return config


def get_test_config() -> ConfigDict:
  """The same in a few seconds."""
  config = emoji_r3gan.get_test_config()
  full = get_config()
  config.model.num_classes = full.model.num_classes
  config.data = full.data
  return config
