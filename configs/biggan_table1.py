r"""The ablation of BigGAN's Table 1 on ImageNet at 128 px.

  bigscale train --config=biggan_table1:bs2048 --workdir=runs/row \
      --config.data.source=/data/imagenet128

Each argument is a row of the table:

| argument | batch | ch | M | shared | skip-z | ortho | 1000 steps | FID | IS |
|---|---|---|---|---|---|---|---|---|---|
| sagan | 256 | 64 | 81.5 | | | | 1000 | 18.65 | 52.52 |
| bs512 | 512 | 64 | 81.5 | | | | 1000 | 15.30 | 58.77 (1.18) |
| bs1024 | 1024 | 64 | 81.5 | | | | 1000 | 14.88 | 63.03 (1.42) |
| bs2048 | 2048 | 64 | 81.5 | | | | 732 | 12.39 | 76.85 (3.83) |
| ch96 | 2048 | 96 | 173.5 | | | | 295 | 9.54 (0.62) | 92.98 (4.27) |
| shared | 2048 | 96 | 160.6 | x | | | 185 | 9.18 (0.13) | 94.94 (1.32) |
| skipz | 2048 | 96 | 158.3 | x | x | | 152 | 8.73 (0.45) | 98.76 (2.84) |
| ortho | 2048 | 96 | 158.3 | x | x | x | 165 | 8.51 (0.32) | 99.31 (2.10) |
| ch64 | 2048 | 64 | 71.3 | x | x | x | 371 | 10.48 (0.10) | 86.90 (0.61) |

Source: Brock et al. 2019, Table 1, without truncation, mean (standard
deviation) over 8 runs. M is the number of parameters of G and D, in millions.
Steps are the mean step of collapse, or 1,000,000. The published hardware is 128
TPU v3 cores for batch 2048. Except for the first row, FID and IS are quoted
from memory; check the paper before citing them.

`sagan` is the baseline, with the settings of its authors (Zhang et al. 2019):
learning rates 1e-4 for G and 4e-4 for D, beta2 0.9, one D step, no moving
average. Its scores are theirs, with attention at 64 px. The other rows use the
paper's training (see configs/biggan.py). z has 128 entries without the shared
embedding and 120 with it, which reproduces the paper's sizes to 0.15 M.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from bigscale.configs import biggan
from bigscale.models.biggan import PRESETS
from bigscale.spec import choose_preset


class Row(NamedTuple):
  """Settings that a row changes. Steps are in thousands, as in the table."""

  batch: int
  ch: int
  shared: bool
  skip_z: bool
  ortho: bool
  steps: int


ROWS = {
  "sagan": Row(256, 64, False, False, False, 1000),
  "bs512": Row(512, 64, False, False, False, 1000),
  "bs1024": Row(1024, 64, False, False, False, 1000),
  "bs2048": Row(2048, 64, False, False, False, 732),
  "ch96": Row(2048, 96, False, False, False, 295),
  "shared": Row(2048, 96, True, False, False, 185),
  "skipz": Row(2048, 96, True, True, False, 152),
  "ortho": Row(2048, 96, True, True, True, 165),
  "ch64": Row(2048, 64, True, True, True, 371),
}
ARGS = tuple(ROWS)


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the settings of one row."""
  row = choose_preset(ROWS, arg, "configs/biggan_table1.py")
  config = biggan.recipe(PRESETS["128"])
  config.global_batch_size = row.batch
  config.model.g_width = config.model.d_width = row.ch
  config.model.shared_dim = 128 if row.shared else 0
  config.model.hierarchical = row.skip_z
  config.model.latent_dim = 120 if row.shared else 128
  config.loss.orthogonal = 1e-4 if row.ortho else 0.0
  if arg == "sagan":
    config.optim.g_lr, config.optim.d_lr = 1e-4, 4e-4
    config.optim.beta2 = 0.9
    config.optim.d_steps = 1
    config.optim.ema_decay = 0.0
  config.total_kimg = float(row.steps * row.batch * config.optim.d_steps)
  return config


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  return biggan.shrink(get_config(arg))
