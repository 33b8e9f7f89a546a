r"""BigGAN on JFT-300M, shaped as the paper's run; the argument is the width.

  bigscale train --config=jft:128 --workdir=runs/jft \
      --config.data.source=/data/jft256

Source: Brock et al. 2019, sec. 4.2 and app. D: 292 million images at 256 px, of
the 8,500 most common labels; the models of 256 px with shared embeddings and
hierarchical latents, batch 2048. An image of JFT carries several labels: all of
them lie in its record, and each visit draws one. Labels are far from uniform,
so the generated ones are drawn as the real ones are; the paper does not say.

JFT is not public. A set of the same layout, to try the machinery on:

  bigscale data build --input=synthetic:20000:256:8500:3 --out=/data/jft256 \
      --encoding=jpeg --resolution=256 --multilabel

| argument | parameters here | in the paper, Table 3 | IS, FID there |
|---|---|---|---|
| 64 | 90.3 M | 99.4 M | 24.78, 23.48 |
| 96 | 193.8 M | 207.9 M | 27.86, 18.84 |
| 128 | 336.5 M | 355.7 M | 30.61, 13.75 |

The paper's figures are quoted from memory. Ours differ by 9, 7 and 5 percent.
What comes within 0.2 percent of all three: a table of all 18,291 labels of
JFT in D, and G's shared embedding not counted (`tests/data/test_jft.py`).
Scores are in features of an Inception trained on JFT: they compare with no
others. Hardware: 256 to 512 TPU v3 cores; not run by us.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan
from bigscale.spec import choose_preset

IMAGES = 292_000_000
LABELS = 8500
ARGS = ("128", "64", "96")


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """The paper's run, of one of the widths in `ARGS`."""
  widths = {width: int(width) for width in ARGS}
  width = choose_preset(widths, arg, "configs/jft.py")
  config = biggan.get_config("256")
  config.model.g_width = config.model.d_width = width
  config.model.num_classes = LABELS
  config.data = {
    "source": "data/jft256",
    "flip": False,
    "fake_labels": "empirical",
    "threads": 16,
    "prefetch": 16,
  }
  return config


def get_test_config(arg: str = ARGS[0]) -> ConfigDict:
  """The same shape of run in a few seconds, on images of several labels."""
  config = biggan.shrink(get_config(arg))
  config.model.num_classes = 50
  config.data.source = "synthetic:4000:32:50:3"
  config.data.threads = config.data.prefetch = 2
  return config
