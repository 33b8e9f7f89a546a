r"""BigGAN on ImageNet at 128 px, as published, arranged for a TPU pod slice.

  bigscale plan --config=biggan_imagenet128 --topology=v5e:16x16
  bigscale train --config=biggan_imagenet128 \
      --workdir=runs/biggan128 --config.data.source=/data/imagenet128

The recipe, its sources and the numbers to expect are those of
`configs/biggan.py:128`. What differs is how it is computed: bfloat16 maps,
weights and optimizer split over 256 chips, gathered once an update in bfloat16
(`zero`), and one power iteration per network and optimizer step instead of one
per forward pass.

Hardware: 256 TPU v5e chips, 8 images on each. `docs/reference/plans.md` has
what the compiler says of it; nobody has timed it on a pod.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan


def get_config() -> ConfigDict:
  """The paper's settings, for v5e:16x16."""
  return arrange(biggan.get_config("128"), bf16_stages=6)


def get_test_config() -> ConfigDict:
  """The same shape of run in a few seconds, on embedded images."""
  config = arrange(biggan.get_test_config("128"), bf16_stages=4)
  config.mesh.fsdp = 1
  return config


def arrange(config: ConfigDict, bf16_stages: int) -> ConfigDict:
  """How a pod slice computes it."""
  config.model.bf16_stages = bf16_stages
  config.model.spectral_update = "step"
  config.mesh = {
    "fsdp": 256,
    "weights": "zero",
    "gradient_dtype": "bfloat16",
  }
  return config
