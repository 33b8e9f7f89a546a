r"""BigGAN on ImageNet, 128 px, as published: FID 8.7, IS 98.8.

  bigscale train --config=configs/biggan_imagenet128.py --workdir=runs/b128 \
      --config.data.source=/data/imagenet128

Source: Brock et al. 2019, sec. 3 and app. B and C. Their run: batch 2048 on
128 cores of a TPU v3, 24 to 48 hours, until it collapses near 150,000 steps.
Generator 70.4 M and discriminator 88.0 M parameters.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The paper's settings; `data.source` is a directory of shards."""
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 2048,
      # 150,000 steps of two D updates.
      "total_kimg": 614_400.0,
      "model": {
        "name": "biggan",
        "resolution": 128,
        "image_channels": 3,
        "num_classes": 1000,
        "latent_dim": 120,
        "g_width": 96,
        "d_width": 96,
        "shared_dim": 128,
        "hierarchical": True,
        "g_attention": (64,),
        "d_attention": (64,),
        "batch_norm_epsilon": 1e-4,
        "spectral_epsilon": 1e-4,
        "num_singular_values": 3,
      },
      "data": {"source": "data/imagenet128", "flip": False},
      "loss": {"adversarial": "hinge", "orthogonal": 1e-4},
      "optim": {
        "g_lr": 5e-5,
        "d_lr": 2e-4,
        "epsilon": 1e-8,
        "d_steps": 2,
        "ema_decay": 0.9999,
      },
      "evaluate": {"kimg": 8192.0, "num_samples": 50_000, "batch_size": 1024},
      "log": {"steps": 50, "samples_kimg": 2048.0},
      "checkpoint": {"kimg": 2048.0},
    }
  )


def get_test_config() -> ConfigDict:
  """The same shape of run in a few seconds, on embedded images."""
  config = get_config()
  config.global_batch_size = 8
  config.total_kimg = 0.032
  config.model.resolution = 64
  config.model.num_classes = 9
  config.model.latent_dim = 20
  config.model.g_width = 8
  config.model.d_width = 8
  config.model.shared_dim = 8
  config.model.g_attention = (16,)
  config.model.d_attention = (16,)
  config.data.source = "emoji"
  return config
