"""R3GAN on two embedded data sets, emoji and Fashion-MNIST, with 19 classes.

bigscale train --config=chaos_embedded --workdir=runs/chaos

This is the small version of `configs/chaos_pod.py`. A quarter of the sampled
images are emoji, although emoji are a sixth of all images. Each data set has
its own epochs.
"""

from ml_collections import ConfigDict

from bigscale.configs import emoji_r3gan


def get_config() -> ConfigDict:
  """Returns the settings of the emoji run with the mixture."""
  config = emoji_r3gan.get_config()
  config.model.num_classes = 19
  config.data = {
    "mixture": (
      {"source": "emoji", "share": 0.25},
      {"source": "fashion_mnist", "share": 0.75},
    ),
    "mixture_labels": "joint",
  }
  # The held-out halves of the mixture contain enough reals for this number.
  config.evaluate.num_samples = 2000
  return config


def get_test_config() -> ConfigDict:
  """Returns a similar run that takes a few seconds."""
  config = emoji_r3gan.get_test_config()
  full = get_config()
  config.model.num_classes = full.model.num_classes
  config.data = full.data
  return config
