r"""How small GANs improve with parameters, images, batch size and data.

  bigscale scaling sweep --config=sweeps/first_law:r3gan \
      --out=runs/law_r3gan
  bigscale scaling sweep --out=runs/law_biggan \
      --config=sweeps/first_law:biggan,data/fashion
  bigscale scaling sweep --out=runs/law_cifar10 --only=size \
      --config=sweeps/first_law:r3gan,tfds:cifar10,3

The argument is MODEL[,SOURCE[,CHANNELS]]: r3gan or biggan (both at 8 px), the
source of images (`tfds:fashion_mnist`) and its number of channels (1). Fashion
images of 28 px are padded to 32 px, either by this config or by building the
data set with `--padding=2`. There are five blocks, with three seeds each:

| block | varies |
|---|---|
| `size` | the width; the scores along a run cover parameters by images |
| `batch` | the batch size; learning rates scale with its square root |
| `images` | the number of training images |
| `classes` | the number of classes |
| `noise` | nothing; these runs log the gradient noise scale |

Learning rates, penalties and the half-life of the average are constant during a
run, so each score along a run equals that of a run of that length.
`docs/reference/first-law.md` has the results.
"""

from typing import Any

from ml_collections import ConfigDict

from bigscale.scaling.rules import sqrt
from bigscale.spec import choose_preset

_SEEDS = [0, 1, 2]


def get_config(what: str = "r3gan") -> dict[str, Any]:
  """Returns the sweep of one model on one source."""
  model, _, rest = what.partition(",")
  source, _, channels = rest.partition(",")
  models = {"r3gan": _r3gan, "biggan": _biggan}
  base, widths, batches = choose_preset(models, model, "first_law")()
  base["model"]["image_channels"] = int(channels or 1)
  source = source or "tfds:fashion_mnist"
  base["data"] = {
    "source": source,
    "flip": True,
    "subset": 0,
    "classes": 0,
    "padding": padding_of(source),
  }
  blocks = {
    "size": {"width": widths},
    "batch": {"batch": {str(b): _batch(base, b) for b in batches}},
    "images": {"data.subset": [30, 125, 500, 2000, 8000, 0]},
    "classes": {
      "classes": {str(count): of_classes(count) for count in (2, 5, 10)}
    },
    "noise": {"parts": {"2": _NOISE}},
  }
  return {
    "base": ConfigDict(base | _COMMON),
    "blocks": {name: axes | {"seed": _SEEDS} for name, axes in blocks.items()},
  }


_CLASSES = 10
_KIMG = 36.0
_COMMON = {
  "seed": 0,
  "mesh": {"data": 1},
  # A collapsed run is a result here, so the monitor must not roll it back.
  "monitor": {"action": "off"},
  "evaluate": {
    "kimg": _KIMG / 8,
    "num_samples": 5000,
    "batch_size": 500,
    "num_reals": 5000,
  },
  "log": {
    "steps": 50,
    "samples_kimg": _KIMG,
    "tensorboard": False,
    "noise_scale": False,
  },
  "checkpoint": {"kimg": _KIMG / 2, "keep": 1},
}
# The noise scale is estimated from differences between microbatches.
_NOISE = {
  "optim.microbatches": 2,
  "log.noise_scale": True,
  "log.steps": 10,
}


def _r3gan() -> tuple[dict[str, Any], dict[str, Any], list[int]]:
  """Returns a small R3GAN, its widths and its batch sizes."""
  base = {
    "global_batch_size": 32,
    "total_kimg": _KIMG,
    "model": {
      "name": "r3gan",
      "resolution": 8,
      "num_classes": _CLASSES,
      "latent_dim": 16,
      "widths": (32, 16),
      "blocks": (1, 1),
      "cardinality": (4, 2),
      "class_embedding_dim": 8,
      "spectra_interval": 100,
    },
    "loss": {"adversarial": "rpgan", "r1_gamma": 0.1, "r2_gamma": 0.1},
    "optim": {
      "microbatches": 1,
      "g_lr": 2e-3,
      "d_lr": 2e-3,
      "beta2": 0.95,
      "ema_half_life_kimg": 1.0,
    },
  }
  widths = {
    str(width): {
      "model.widths": (width, width // 2),
      "model.cardinality": (width // 8, width // 16),
    }
    for width in (16, 32, 48, 64)
  }
  return base, widths, [16, 32, 64, 128]


def _biggan() -> tuple[dict[str, Any], dict[str, Any], list[int]]:
  """Returns a small BigGAN, its channel multipliers and its batch sizes."""
  base = {
    "global_batch_size": 32,
    "total_kimg": _KIMG,
    "model": {
      "name": "biggan",
      "resolution": 8,
      "num_classes": _CLASSES,
      "latent_dim": 32,
      "g_width": 6,
      "d_width": 6,
      "hierarchical": False,
      "shared_dim": 16,
      "spectra_interval": 100,
    },
    "loss": {"adversarial": "hinge"},
    "optim": {
      "microbatches": 1,
      "g_lr": 5e-4,
      "d_lr": 5e-4,
      "beta2": 0.99,
      "ema_half_life_kimg": 1.0,
    },
  }
  widths = {
    str(width): {"model.g_width": width, "model.d_width": width}
    for width in (3, 6, 9, 12)
  }
  return base, widths, [16, 32, 64, 128]


def padding_of(source: str) -> int | None:
  """Returns 2 for the 28 px digits and fashion images, otherwise None."""
  return 2 if source in ("tfds:mnist", "tfds:fashion_mnist") else None


def of_classes(count: int) -> dict[str, Any]:
  """Returns the settings that select `count` of ten classes."""
  return {
    "data.classes": count if count < _CLASSES else 0,
    "model.num_classes": count,
  }


def _batch(base: dict[str, Any], size: int) -> dict[str, Any]:
  """Returns the settings of another batch size.

  Adam's learning rates are proportional to the square root of the batch size.
  """
  factor = sqrt(size / base["global_batch_size"])
  return {
    "global_batch_size": size,
    "optim.g_lr": base["optim"]["g_lr"] * factor,
    "optim.d_lr": base["optim"]["d_lr"] * factor,
  }


def get_test_config() -> dict[str, Any]:
  """Returns a similar sweep on embedded images that takes a few seconds."""
  return shortened(get_config("r3gan,fashion_mnist"))


def shortened(config: dict[str, Any]) -> dict[str, Any]:
  """Shortens the runs of a sweep to four steps."""
  base = config["base"]
  base.total_kimg = 0.128
  base.evaluate.kimg = 0.0
  base.evaluate.num_samples = base.evaluate.num_reals = 200
  base.evaluate.batch_size = 100
  base.evaluate.classifier_steps = 20
  return config
