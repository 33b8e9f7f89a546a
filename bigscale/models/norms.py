"""Batch norm over the global batch or groups of samples.

Under `jit` over a mesh, a mean over the batch axis is the mean over all
devices. If `shard_map` splits the batch, `Moments` describes which samples are
on other devices.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from bigscale.models.layers import Dense, Embedding
from bigscale.spec import SpecError
from bigscale.types import Array, BatchSplit


@dataclasses.dataclass(frozen=True)
class Moments:
  """Which samples share a mean and a variance.

  Brock et al. 2019 share them across all devices. Smaller groups, with the
  samples of one replica or several, follow XMC-GAN (Zhang et al. 2021) and need
  less communication.

  Attributes:
    group_size: number of consecutive samples in a group; 0 is the whole batch.
    split: how the batch is split over devices.
    passes: number of batches that a device's samples consist of, one after the
      other. Each batch has its own groups.
  """

  group_size: int = 0
  split: BatchSplit = BatchSplit()
  passes: int = 1

  def __call__(
    self, x_bhwc: Array, near_c: Array | float = 0.0
  ) -> tuple[Array, Array]:
    """Computes means and biased variances, [G, C], of the G local groups.

    The groups of the first pass come first. The variance is E[(x - k)^2] - E[x
    - k]^2. Its relative error is about that of x times (mean - k)^2 / variance,
    for any k.

    Args:
      x_bhwc: [B, H, W, C] in float32 or wider.
      near_c: [C] k, an estimate of the means that is equal on all devices. No
        gradient flows through it.

    Raises:
      SpecError: groups do not divide the batch, or would split one device's
        samples unevenly.
    """
    b, h, w, c = x_bhwc.shape
    here, spanned = self._groups(b)
    near_c = lax.stop_gradient(jnp.broadcast_to(near_c, (c,)))
    x_gnhwc = x_bhwc.reshape(here, b // here, h, w, c)
    x_gnhwc = x_gnhwc - near_c[None, None, None, None]
    # One pass over the map: both sums need a single all-reduce, and the
    # compiler can fuse them with the preceding convolution. An estimate from
    # the batch itself, or a second pass, would read the map once more.
    mean_gc = jnp.mean(x_gnhwc, axis=(1, 2, 3))
    square_gc = jnp.mean(jnp.square(x_gnhwc), axis=(1, 2, 3))
    if spanned > 1:
      groups = None
      if spanned < self.split.devices:
        order = range(self.split.devices)
        groups = [order[i : i + spanned] for i in order[::spanned]]
        groups = [list(group) for group in groups]
      sums = lax.psum(
        (mean_gc, square_gc), self.split.axes, axis_index_groups=groups
      )
      mean_gc, square_gc = (total / spanned for total in sums)
    var_gc = jnp.maximum(square_gc - jnp.square(mean_gc), 0)
    return mean_gc + near_c[None], var_gc

  def samples(self, b: int) -> int:
    """Returns the number of samples per group if `b` samples are local."""
    here, spanned = self._groups(b)
    return b // here * spanned

  def _groups(self, samples: int) -> tuple[int, int]:
    """Returns the number of local groups and the devices that a group spans."""
    b = samples // self.passes
    size = self.group_size or b * self.split.devices
    here, spanned = max(1, b // size), max(1, size // b)
    fits = b % size == 0 if b >= size else size % b == 0
    if not fits or self.split.devices % spanned:
      devices = self.split.devices
      raise SpecError(
        f"model.batch_norm_group_size={size} does not fit {b} samples on each "
        f"of {devices} devices: it must be a divisor of {b}, or {b} times a "
        f"divisor of {devices}; use {b} (one group per device) or 0 (the whole "
        "batch)"
      )
    return self.passes * here, spanned


class BatchNorm(nn.Module):
  """Normalizes channels, then applies a gain and a bias given by the caller.

  It computes in float32 or wider, with one factor and one offset per channel.
  The result has the map's dtype. The running statistics in `batch_stats` are
  means over the local groups; the variance is the unbiased one, as in PyTorch.
  In training, the running mean also serves as the estimate that keeps the
  batch's variance accurate if means are large (`Moments`).

  Attributes:
    momentum: decay rate of the running statistics per update.
    epsilon: constant added to the variance.
    moments: which samples share statistics.
  """

  momentum: float
  epsilon: float
  moments: Moments = Moments()

  @nn.compact
  def __call__(
    self,
    x_bhwc: Array,
    gain_bc: Array | float = 1.0,
    bias_bc: Array | float = 0.0,
    *,
    train: bool,
  ) -> Array:
    """Normalizes [B, H, W, C].

    Args:
      x_bhwc: [B, H, W, C].
      gain_bc: gain, broadcastable to [B, C].
      bias_bc: bias, broadcastable to [B, C].
      train: whether to use the batch's statistics and update the running ones.

    Returns:
      [B, H, W, C] in the dtype of `x_bhwc`.
    """
    b, h, w, channels = x_bhwc.shape
    wide = jnp.promote_types(x_bhwc.dtype, jnp.float32)
    mean = self.variable("batch_stats", "mean", jnp.zeros, channels, wide)
    var = self.variable("batch_stats", "var", jnp.ones, channels, wide)
    if self.is_initializing():
      return x_bhwc
    if train:
      mean_gc, var_gc = self.moments(x_bhwc.astype(wide), mean.value)
      count = self.moments.samples(b) * h * w
      unbiased_gc = var_gc * (count / max(count - 1, 1))
      mean.value = self._moved(mean.value, mean_gc)
      var.value = self._moved(var.value, unbiased_gc)
    else:
      mean_gc, var_gc = mean.value[None], var.value[None]
    if mean_gc.shape[0] > 1:
      of_group = b // mean_gc.shape[0]
      mean_gc = jnp.repeat(mean_gc, of_group, axis=0)
      var_gc = jnp.repeat(var_gc, of_group, axis=0)
    scale_bc = gain_bc / jnp.sqrt(var_gc + self.epsilon)
    shift_bc = bias_bc - mean_gc * scale_bc
    y = x_bhwc * scale_bc[:, None, None] + shift_bc[:, None, None]
    return y.astype(x_bhwc.dtype)

  def _moved(self, running_c: Array, found_gc: Array) -> Array:
    """Returns the running statistics, updated once per pass."""
    passes = self.moments.passes
    means_pc = jnp.mean(
      found_gc.reshape(passes, -1, found_gc.shape[-1]), axis=1
    )
    for i in range(passes):
      keep = self.momentum
      running_c = keep * running_c + (1 - keep) * means_pc[i]
    return running_c


class AffineBatchNorm(nn.Module):
  """Batch norm with a learned gain and bias per channel."""

  momentum: float
  epsilon: float
  dtype: str
  moments: Moments = Moments()

  @nn.compact
  def __call__(self, x_bhwc: Array, *, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    channels = x_bhwc.shape[-1]
    gain = self.param("gain", nn.initializers.ones, (channels,), self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.dtype)
    return BatchNorm(self.momentum, self.epsilon, self.moments, name="norm")(
      x_bhwc, gain[None], bias[None], train=train
    )


class ConditionalBatchNorm(nn.Module):
  """Batch norm whose gain and bias depend on a condition.

  The gain is 1 + f(condition). Without the 1, the layer would initially
  multiply by noise around zero (Brock et al. 2019, app. B, and their code).

  Attributes:
    momentum: see `BatchNorm`.
    epsilon: see `BatchNorm`.
    dtype: dtype of the parameters.
    num_classes: if positive, the condition is a label [B] int32 (or class
      weights, see `Embedding`), and gain and bias are rows of tables. If 0, the
      condition is a vector [B, N] that is mapped linearly.
    moments: see `BatchNorm`.
  """

  momentum: float
  epsilon: float
  dtype: str
  num_classes: int = 0
  moments: Moments = Moments()

  @nn.compact
  def __call__(self, x_bhwc: Array, condition: Array, *, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    gain_bc = self._map("gain", x_bhwc.shape[-1], condition)
    bias_bc = self._map("bias", x_bhwc.shape[-1], condition)
    return BatchNorm(self.momentum, self.epsilon, self.moments, name="norm")(
      x_bhwc, 1 + gain_bc, bias_bc, train=train
    )

  def _map(self, name: str, channels: int, condition: Array) -> Array:
    if self.num_classes:
      init = nn.initializers.orthogonal()
      return Embedding(self.num_classes, channels, init, self.dtype, name=name)(
        condition
      )
    init = nn.initializers.orthogonal()
    return Dense(channels, self.dtype, kernel_init=init, name=name)(condition)
