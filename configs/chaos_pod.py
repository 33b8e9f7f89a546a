r"""BigGAN on a hundred million images from four sources, at 256 px.

  bigscale train --config=chaos_pod --workdir=runs/chaos

Each source is a directory of shards ('bigscale data build'); change the paths.
The config follows the runs called chaos (TPU Podcast community, 2020), which
mixed ImageNet, Flickr, Danbooru and faces. Their idea is that large and varied
data stabilizes a BigGAN. The shares are our choice: they are proportional to
the square root of the size (temperature 2), so small sources are sampled often
enough without displacing the large ones. The label is the source, because YFCC
and faces have no common classes.

Sizes: ImageNet 1.28 M, YFCC 97 M, Danbooru2019 3.7 M, FFHQ 70 thousand.
Hardware: 256 TPU v3 cores, as for `configs/biggan.py:256`; not run by us.
"""

from ml_collections import ConfigDict

from bigscale.configs import biggan

SOURCES = ("imagenet", "yfcc", "danbooru", "ffhq")


def get_config() -> ConfigDict:
  """Returns the settings of BigGAN-256 on the mixture."""
  config = biggan.get_config("256")
  config.model.num_classes = len(SOURCES)
  config.data = {
    "mixture": tuple({"source": f"data/{name}256"} for name in SOURCES),
    "mixture_labels": "source",
    "temperature": 2.0,
    "flip": False,
    "fake_labels": "empirical",
    "threads": 16,
    "prefetch": 16,
  }
  return config


def get_test_config() -> ConfigDict:
  """Returns a similar run on embedded images that takes a few seconds."""
  config = biggan.shrink(get_config())
  config.model.num_classes = 2
  config.data = {
    "mixture": ({"source": "emoji"}, {"source": "fashion_mnist"}),
    "mixture_labels": "source",
    "temperature": 2.0,
    "fake_labels": "empirical",
  }
  return config
