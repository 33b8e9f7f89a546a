"""R3GAN on the embedded Fashion-MNIST images, the main example.

bigscale train --config=fashion_r3gan --workdir=runs/fashion
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the settings of the main example."""
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 32,
      "total_kimg": 32.0,
      "model": {
        "name": "r3gan",
        "resolution": 16,
        "image_channels": 1,
        "num_classes": 10,
        "latent_dim": 64,
        "widths": (128, 64, 32),
        "blocks": (1, 1, 1),
        "cardinality": (8, 4, 4),
        "class_embedding_dim": 32,
      },
      # No flips, because all shoes in the data set point left.
      "data": {"source": "fashion_mnist", "flip": False},
      "loss": {
        "adversarial": "rpgan",
        "r1_gamma": {"first": 0.3, "last": 0.1, "kimg": 32.0},
        "r2_gamma": {"first": 0.3, "last": 0.1, "kimg": 32.0},
      },
      "optim": {
        "g_lr": {"first": 2e-3, "last": 3e-4, "kimg": 32.0},
        "d_lr": {"first": 2e-3, "last": 3e-4, "kimg": 32.0},
        "beta2": {"first": 0.9, "last": 0.99, "kimg": 32.0},
        "ema_half_life_kimg": {"first": 0.0, "last": 3.0, "kimg": 16.0},
      },
      "evaluate": {"kimg": 3.2, "num_samples": 5000},
      "log": {"steps": 10, "samples_kimg": 3.2, "num_samples": 100},
      "checkpoint": {"kimg": 3.2},
    }
  )


def get_test_config() -> ConfigDict:
  """Returns a similar run that takes a few seconds."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.widths = (16, 16, 16)
  config.model.cardinality = (2, 2, 2)
  return config
