"""BigGAN on the embedded Fashion-MNIST images.

  bigscale train --config=fashion_biggan --workdir=runs/biggan

It uses BigGAN's complete recipe at a small scale: hinge loss, shared class
embedding, hierarchical latents, conditional batch norm, spectral norm with
three tracked singular values per layer, projection discriminator, orthogonal
regularization and a moving average.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns a config with 16 channels at 32 px: about 560,000 parameters."""
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 64,
      "total_kimg": 100.0,
      "model": {
        "name": "biggan",
        "resolution": 32,
        "image_channels": 1,
        "num_classes": 10,
        "latent_dim": 80,
        "g_width": 16,
        "d_width": 16,
        "shared_dim": 32,
        "hierarchical": True,
        "spectral_epsilon": 1e-6,
        "num_singular_values": 3,
      },
      "data": {"source": "fashion_mnist", "flip": True},
      "loss": {"adversarial": "hinge", "orthogonal": 1e-4},
      "optim": {
        "g_lr": 2e-4,
        "d_lr": 4e-4,
        "epsilon": 1e-6,
        "d_steps": 1,
        "ema_decay": 0.99,
        "ema_start_kimg": 6.4,
      },
      "evaluate": {"kimg": 10.0, "num_samples": 5000},
      "log": {"steps": 10, "samples_kimg": 10.0, "num_samples": 100},
      "checkpoint": {"kimg": 10.0},
    }
  )


def get_test_config() -> ConfigDict:
  """Returns a similar run that takes a few seconds."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.g_width = 4
  config.model.d_width = 4
  config.model.latent_dim = 16
  config.model.shared_dim = 8
  return config
