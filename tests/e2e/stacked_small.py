"""The stacked MNIST study with embedded images, a minute or two per run."""

from typing import Any

from bigscale.configs.sweeps import stacked_mnist


def get_config() -> dict[str, Any]:
  """300 steps, evaluated half-way and at the end."""
  config = stacked_mnist.get_config("fashion_mnist")
  base = config["base"]
  base.global_batch_size = 16
  base.total_kimg = 4.8
  base.model.update(
    resolution=8, widths=(16, 16), blocks=(1, 1), cardinality=(1, 1)
  )
  base.evaluate.update(
    kimg=2.4, num_samples=5000, num_reals=5000, classifier_steps=300
  )
  base.checkpoint.kimg = 1.2
  return config
