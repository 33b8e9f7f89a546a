"""A run of a few seconds on embedded images, which can kill itself."""

import os
import signal
import sys

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """R3GAN at 8 px: 24 steps, a checkpoint every 4, evaluated at the end."""
  return ConfigDict(
    {
      "seed": 0,
      "global_batch_size": 8,
      "total_kimg": 0.192,
      "model": {
        "name": "r3gan",
        "resolution": 8,
        "image_channels": 1,
        "num_classes": 10,
        "latent_dim": 8,
        "widths": (16, 8),
        "blocks": (1, 1),
        "cardinality": (2, 2),
        "class_embedding_dim": 4,
        "num_singular_values": 1,
      },
      "data": {"source": "fashion_mnist", "flip": True},
      # A second penalty would take seconds to compile.
      "loss": {"adversarial": "rpgan", "r1_gamma": 0.5},
      "optim": {"g_lr": 1e-3, "d_lr": 1e-3, "ema_half_life_kimg": 0.02},
      "evaluate": {
        "kimg": 0.0,
        "num_samples": 100,
        "batch_size": 50,
        "classifier_steps": 10,
      },
      "log": {"steps": 2, "samples_kimg": 0.064, "num_samples": 20},
      # A program for one device compiles fastest.
      "mesh": {"data": 1},
      "checkpoint": {"kimg": 0.032, "keep": 2},
    }
  )


def smallest(**model) -> ConfigDict:
  """The same run at 4 px, which compiles fastest."""
  config = get_config().unlock()
  config.model.update(resolution=4, widths=(4,), blocks=(1,), cardinality=(2,))
  config.model.update(model)
  return config


def main() -> None:
  """tiny.py WORKDIR STEP: trains, with SIGKILL after the step (0: never)."""
  from bigscale.spec import from_config
  from bigscale.train import loop

  workdir, kill_at = sys.argv[1], int(sys.argv[2])
  after = loop._Run._after

  def after_then_die(self: loop._Run, step: int, *rest: object) -> bool:
    leaving = after(self, step, *rest)
    if step == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
    return leaving

  loop._Run._after = after_then_die
  loop.train(from_config(smallest()), workdir)


if __name__ == "__main__":
  main()
