"""What the D of a checkpoint says of images, outside of training."""

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.ops.images import to_float
from bigscale.train import tracking
from bigscale.train.build import Built
from bigscale.train.state import Average
from bigscale.types import Array


class TrainedDiscriminator:
  """D on one device, without augmentation.

  Spectral norm takes a power step that is forgotten, as where G is sampled.
  """

  def __init__(self, built: Built, d: Average, batch_size: int) -> None:
    """Makes the program; computes nothing.

    Args:
      built: of the run, on a mesh of one device.
      d: its weights there, before spectral norm.
      batch_size: images at a time, the one shape that is compiled.
    """
    spec, network = built.spec, built.model.d
    self._d = d
    self._labelled = spec.model.num_classes > 0
    self._batch_size = batch_size

    def logits(d: Average, images: Array, labels: Array) -> Array:
      params, _ = tracking.normalized(d.params, d.spectra, network, spec)
      variables = {"params": params, "batch_stats": {}}
      x = to_float(images, jnp.dtype(spec.model.dtype))
      return network.apply(variables, x, labels)

    self._compiled = jax.jit(logits)

  def logits(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[N] float64 of [N, H, W, C] uint8 images and their labels [N]."""
    if not self._labelled:
      labels = np.zeros_like(labels)
    size = self._batch_size
    found = []
    for start in range(0, len(images), size):
      some = images[start : start + size]
      missing = size - len(some)
      padded = np.pad(some, ((0, missing), (0, 0), (0, 0), (0, 0)))
      names = np.pad(labels[start : start + size], (0, missing))
      out = np.asarray(self._compiled(self._d, padded, names), np.float64)
      found.append(out[: len(some)])
    return np.concatenate(found)
