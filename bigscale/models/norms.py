"""Batch norm over the global batch, conditional and plain.

Under `jit` over a mesh the mean over the batch axis is the mean over all
devices; nothing here knows of them.
"""

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.layers import Dense, Embedding
from bigscale.types import Array


class BatchNorm(nn.Module):
  """Normalizes channels, without gain and bias.

  Statistics are at least float32. Running ones live in `batch_stats`; the
  variance there is the unbiased one, as in PyTorch.

  Attributes:
    momentum: share of the old running statistics kept by an update.
    epsilon: added to the variance.
  """

  momentum: float
  epsilon: float

  @nn.compact
  def __call__(self, x_bhwc: Array, *, train: bool) -> Array:
    """[B, H, W, C] to the same; `train` uses and records the batch's."""
    channels = x_bhwc.shape[-1]
    wide = jnp.promote_types(x_bhwc.dtype, jnp.float32)
    mean = self.variable("batch_stats", "mean", jnp.zeros, channels, wide)
    var = self.variable("batch_stats", "var", jnp.ones, channels, wide)
    if train:
      x = x_bhwc.astype(wide)
      # One pass, so that both sums cross the devices in one all-reduce.
      mean_c = jnp.mean(x, axis=(0, 1, 2))
      square_c = jnp.mean(jnp.square(x), axis=(0, 1, 2))
      var_c = jnp.maximum(square_c - jnp.square(mean_c), 0)
      if not self.is_initializing():
        count = x.size // channels
        unbiased_c = var_c * (count / max(count - 1, 1))
        keep = self.momentum
        mean.value = keep * mean.value + (1 - keep) * mean_c
        var.value = keep * var.value + (1 - keep) * unbiased_c
    else:
      mean_c, var_c = mean.value, var.value
    scale_c = 1 / jnp.sqrt(var_c + self.epsilon)
    shape = (1, 1, 1, channels)
    shift_c = -mean_c * scale_c
    normalized = x_bhwc * scale_c.reshape(shape) + shift_c.reshape(shape)
    return normalized.astype(x_bhwc.dtype)


class AffineBatchNorm(nn.Module):
  """Batch norm with one learned gain and bias a channel."""

  momentum: float
  epsilon: float
  dtype: str

  @nn.compact
  def __call__(self, x_bhwc: Array, *, train: bool) -> Array:
    """[B, H, W, C] to the same."""
    channels = x_bhwc.shape[-1]
    gain = self.param("gain", nn.initializers.ones, (channels,), self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.dtype)
    y = BatchNorm(self.momentum, self.epsilon, name="norm")(x_bhwc, train=train)
    shape = (1, 1, 1, channels)
    return y * gain.reshape(shape) + bias.reshape(shape)


class ConditionalBatchNorm(nn.Module):
  """Batch norm whose gain and bias depend on a condition.

  The gain is 1 + f(condition): without the 1 the layer starts by multiplying
  with noise around zero (Brock et al. 2019, app. B, and their code).

  Attributes:
    momentum: see `BatchNorm`.
    epsilon: see `BatchNorm`.
    dtype: of the parameters.
    num_classes: where positive, the condition is a label [B] int32 (or shares
      of the classes, see `Embedding`) and gain and bias are rows of tables;
      else a vector [B, N], mapped linearly.
  """

  momentum: float
  epsilon: float
  dtype: str
  num_classes: int = 0

  @nn.compact
  def __call__(self, x_bhwc: Array, condition: Array, *, train: bool) -> Array:
    """[B, H, W, C] to the same."""
    gain_bc = self._map("gain", x_bhwc.shape[-1], condition)
    bias_bc = self._map("bias", x_bhwc.shape[-1], condition)
    y = BatchNorm(self.momentum, self.epsilon, name="norm")(x_bhwc, train=train)
    return y * (1 + gain_bc[:, None, None, :]) + bias_bc[:, None, None, :]

  def _map(self, name: str, channels: int, condition: Array) -> Array:
    if self.num_classes:
      init = nn.initializers.orthogonal()
      return Embedding(self.num_classes, channels, init, self.dtype, name=name)(
        condition
      )
    init = nn.initializers.orthogonal()
    return Dense(channels, self.dtype, kernel_init=init, name=name)(condition)
