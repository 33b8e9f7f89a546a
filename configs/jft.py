r"""BigGAN on JFT-300M, modeled on the paper's run; the argument is the width.

  bigscale train --config=jft:128 --workdir=runs/jft \
      --config.data.source=/data/jft256

Source: Brock et al. 2019, sec. 4.2 and app. D: 292 million images at 256 px
with the 8,500 most common labels, the 256 px models with shared embeddings and
hierarchical latents, and batch 2048. An image of JFT has several labels. All of
them are in its record, and one is selected at random each time the image is
read. Labels are far from uniform, so the labels of generated images are sampled
like those of the reals; the paper does not state this.

JFT is not public. This command builds a data set with the same layout for
tests:

  bigscale data build --input=synthetic:20000:256:8500:3 --out=/data/jft256 \
      --encoding=jpeg --resolution=256 --multilabel

| argument | parameters here | in the paper, Table 3 | published IS, FID |
|---|---|---|---|
| 64 | 90.3 M | 99.4 M | 24.78, 23.48 |
| 96 | 193.8 M | 207.9 M | 27.86, 18.84 |
| 128 | 336.5 M | 355.7 M | 30.61, 13.75 |

The paper's numbers are quoted from memory. The parameter counts differ by 9, 7
and 5 percent. All three agree to 0.2 percent if D's table has all 18,291 labels
of JFT and G's shared embedding is not counted (`tests/data/test_jft.py`). The
scores use features of an Inception trained on JFT, so they cannot be compared
with others. Hardware: 256 to 512 TPU v3 cores; not run by us.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan
from bigscale.spec import choose_preset

IMAGES = 292_000_000
LABELS = 8500
ARGS = ("128", "64", "96")


def get_config(arg: str = ARGS[0]) -> ConfigDict:
  """Returns the paper's settings for one of the widths in `ARGS`."""
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
  """Returns a similar run on synthetic images with several labels."""
  config = biggan.shrink(get_config(arg))
  config.model.num_classes = 50
  config.data.source = "synthetic:4000:32:50:3"
  config.data.threads = config.data.prefetch = 2
  return config
