r"""BigGAN-deep on ImageNet as published, at 128, 256 and 512 px.

  bigscale train --config=biggan_deep:128 --workdir=runs/deep128 \
      --config.data.source=/data/imagenet128

Source: Brock et al. 2019, app. B and C. The training is that of BigGAN, with
learning rates 5e-5 for G and 2e-4 for D at 128 px, and 2.5e-5 for both at
higher resolutions.

| argument | published hardware and time | expected FID / IS |
|---|---|---|
| 128 | 128 TPU v3 cores, 1 to 2 days | 5.7 +- 0.3 / 124.5 +- 2 |
| 256 | 256 TPU v3 cores, 1 to 2 days | 6.9 +- 0.2 / 171.4 +- 2 |
| 512 | 512 TPU v3 cores, 1 to 2 days | 7.5 / 152.8 |

FID and IS are from Table 2, "no truncation", with features of TensorFlow's
Inception. They are quoted from memory; check the paper before citing them. The
paper does not state the number of steps; these configs use 150,000.
`data.source` is a directory of shards.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan
from bigscale.models.biggan_deep import PRESETS
from bigscale.spec import choose_preset

ARGS = ("128", "256", "512")


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the paper's settings for one of `ARGS`."""
  presets = {name: PRESETS[name] for name in ARGS}
  model = choose_preset(presets, arg, "configs/biggan_deep.py")
  config = biggan.recipe(model)
  if model.resolution > 128:
    config.optim.g_lr = config.optim.d_lr = 2.5e-5
  return config


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  config = biggan.shrink(get_config(arg), resolution=64)
  config.model.g_depth = config.model.d_depth = 1
  return config
