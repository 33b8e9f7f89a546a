r"""Mode coverage of four losses on stacked MNIST, with two seeds each.

  bigscale scaling sweep --config=sweeps/stacked_mnist \
      --out=runs/stacked_mnist
  bigscale scaling sweep --config=sweeps/stacked_mnist:data/mnist \
      --out=runs/stacked_mnist

The argument is the source of the digits, `tfds:mnist` by default. Digits of 28
px are padded to 32 px, either by this config or by building the data set with
`--padding=2`. There are a thousand modes. A digit classifier counts those
covered by 26,000 samples. The scores are `modes_classifier` and
`modes_kl_classifier` (1000 and about 0.024 for reals).

| loss | modes, two seeds | reverse KL | Huang et al. 2024, table 1 |
|---|---|---|---|
| RpGAN + R1 + R2 | 358, 706 | 2.59, 1.43 | 1000, 0.078 |
| GAN + R1 + R2 | 534, 389 | 2.03, 2.36 | 693, 0.927 |
| RpGAN + R1 | 130, 305 | 3.34, 2.56 | fails |
| GAN + R1 | 521, 308 | 1.83, 2.76 | fails |

The model is a small R3GAN without classes, with digits of 16 px and 80,000
images shown. Two concurrent runs took 16 to 23 minutes on 2 busy CPU cores.
docs/reference/metrics.md discusses what the results do and do not show.
"""

from typing import Any

from ml_collections import ConfigDict

from bigscale.configs.sweeps import first_law

_LOSSES = {
  "rpgan_r1_r2": ("rpgan", 1.0),
  "gan_r1_r2": ("non_saturating", 1.0),
  "rpgan_r1": ("rpgan", 0.0),
  "gan_r1": ("non_saturating", 0.0),
}
_GAMMA = 0.3


def get_config(digits: str = "tfds:mnist") -> dict[str, Any]:
  """Returns the sweep over four losses, with digits from a source."""
  base = {
    "seed": 0,
    "global_batch_size": 32,
    "total_kimg": 80.0,
    "model": {
      "name": "r3gan",
      "resolution": 16,
      "image_channels": 3,
      "num_classes": 0,
      "latent_dim": 64,
      "widths": (48, 32, 16),
      "blocks": (1, 1, 1),
      "cardinality": (3, 2, 1),
    },
    "data": {
      "source": f"stacked:{digits}",
      "flip": False,
      "padding": first_law.padding_of(digits),
    },
    "loss": {
      "adversarial": "rpgan",
      "r1_gamma": _GAMMA,
      "r2_gamma": _GAMMA,
    },
    "optim": {
      "g_lr": 1e-3,
      "d_lr": 1e-3,
      "beta2": {"first": 0.9, "last": 0.99, "kimg": 20.0},
      "ema_half_life_kimg": {"first": 0.0, "last": 2.0, "kimg": 20.0},
    },
    "mesh": {"data": 1},
    "evaluate": {
      "kimg": 40.0,
      "num_samples": 26_000,
      "batch_size": 500,
      "num_reals": 26_000,
      "scores": ("modes_classifier", "fd_classifier"),
    },
    "log": {"steps": 25, "samples_kimg": 40.0, "tensorboard": False},
    "checkpoint": {"kimg": 40.0},
  }
  losses = {
    name: {
      "loss.adversarial": adversarial,
      "loss.r2_gamma": second * _GAMMA,
    }
    for name, (adversarial, second) in _LOSSES.items()
  }
  axes = {"loss": losses, "seed": [0, 1]}
  return {"base": ConfigDict(base), "blocks": {"losses": axes}}


def get_test_config() -> dict[str, Any]:
  """Returns a small sweep for tests, with Fashion-MNIST images as digits."""
  config = get_config("fashion_mnist")
  base = config["base"]
  base.global_batch_size = 8
  base.total_kimg = 0.032
  base.model.widths = (16, 16, 16)
  base.model.cardinality = (2, 2, 2)
  base.evaluate.num_samples = base.evaluate.num_reals = 200
  base.evaluate.classifier_steps = 20
  base.evaluate.kimg = 0.0
  return config
