r"""Tests whether more data, or more diverse data, prevents collapse.

  bigscale scaling sweep --config=sweeps/collapse --out=runs/collapse
  bigscale scaling survival runs/collapse/runs.csv --x=dataset_images \
      --where=blocks~images
  bigscale scaling survival runs/collapse/runs.csv --x=classes \
      --where=blocks~classes

Brock et al. 2019 (sec. 4.3) observed that BigGAN became more stable from 1 to
300 million images. This sweep trains a small BigGAN with a learning rate just
above the stable range, with different numbers of images, or with 100 images
from different numbers of classes, and eight seeds each. The argument,
SOURCE[,RATE[,KIMG]], is the source of images (`tfds:fashion_mnist`), the
learning rate (1e-2) and the length (72). `docs/reference/first-law.md` has the
results.
"""

from typing import Any

from ml_collections import ConfigDict

from bigscale.configs.sweeps import first_law

_SEEDS = list(range(8))
_FEW = 100
_KIMG = 72.0


def get_config(what: str = "") -> dict[str, Any]:
  """Returns the sweep on a source with ten classes."""
  source, rate, kimg = [*what.split(","), "", ""][:3]
  base = first_law.get_config(f"biggan,{source}")["base"]
  base.model.g_width = base.model.d_width = 4
  base.optim.g_lr = base.optim.d_lr = float(rate or 1e-2)
  base.total_kimg = float(kimg or _KIMG)
  base.data.subset = _FEW
  base.evaluate.kimg = _KIMG / 12
  base.evaluate.num_samples = 2000
  base.checkpoint.kimg = base.log.samples_kimg = _KIMG
  classes = {str(count): first_law.of_classes(count) for count in (2, 5, 10)}
  return {
    "base": ConfigDict(base),
    "blocks": {
      "images": {"data.subset": [_FEW, 1000, 0], "seed": _SEEDS},
      "classes": {"classes": classes, "seed": _SEEDS},
    },
  }


def get_test_config() -> dict[str, Any]:
  """Returns a similar sweep on embedded images that takes a few seconds."""
  return first_law.shortened(get_config("fashion_mnist"))
