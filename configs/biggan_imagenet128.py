r"""BigGAN on ImageNet at 128 px, as published, for a TPU pod slice.

  bigscale plan --config=biggan_imagenet128 --topology=v5e:16x16
  bigscale train --config=biggan_imagenet128 \
      --workdir=runs/biggan128 --config.data.source=/data/imagenet128

The recipe, its sources and the expected scores are those of
`configs/biggan.py:128`. Only the execution differs: bfloat16 maps, weights and
optimizer state sharded over 256 chips and gathered once per update in bfloat16
(`zero`), and one power iteration per network and optimizer step instead of one
per forward pass.

Hardware: 256 TPU v5e chips with 8 images each. `docs/reference/plans.md`
reports the compiler's estimates; the config has not been timed on a pod.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan


def get_config() -> ConfigDict:
  """Returns the paper's settings, for v5e:16x16."""
  return arrange(biggan.get_config("128"), bf16_stages=6)


def get_test_config() -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  config = arrange(biggan.get_test_config("128"), bf16_stages=4)
  config.mesh.fsdp = 1
  return config


def arrange(config: ConfigDict, bf16_stages: int) -> ConfigDict:
  """Sets precision, power iterations and sharding for a pod slice."""
  config.model.bf16_stages = bf16_stages
  config.model.spectral_update = "step"
  config.mesh = {
    "fsdp": 256,
    "weights": "zero",
    "gradient_dtype": "bfloat16",
  }
  return config
