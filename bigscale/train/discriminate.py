"""Evaluates the D of a checkpoint on images, outside training."""

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

  As in sampling from G, spectral norm takes one power iteration step whose
  result is discarded.
  """

  def __init__(self, built: Built, d: Average, batch_size: int) -> None:
    """Builds the jitted function without running it.

    Args:
      built: functions of the run, built on a mesh of one device.
      d: D's weights on that device, before spectral norm.
      batch_size: number of images per call; the only compiled shape.
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
    """Returns float64 logits [N]; images [N, H, W, C] uint8, labels [N]."""
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
