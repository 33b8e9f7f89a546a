"""Batch norm over the global batch or groups of it, conditional and plain.

Under `jit` over a mesh the mean over the batch axis is the mean over all
devices. Where the batch is split by hand (`shard_map`), `Moments` says what
lies elsewhere.
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

  Brock et al. 2019 take them over all devices; smaller groups, of as many
  samples as a replica or some replicas hold, are XMC-GAN's way (Zhang et al.
  2021) and cost fewer messages.

  Attributes:
    group_size: samples; consecutive ones make a group. 0 is the whole batch.
    split: where the batch lies.
    passes: batches that a device's samples are of, one after the other, each
      with groups of its own.
  """

  group_size: int = 0
  split: BatchSplit = BatchSplit()
  passes: int = 1

  def __call__(
    self, x_bhwc: Array, near_c: Array | float = 0.0
  ) -> tuple[Array, Array]:
    """Computes means and biased variances, [G, C] of the G groups here.

    Those of the first pass come first.

    The variance is E[(x - k)^2] - E[x - k]^2. Its relative error is about that
    of x times (mean - k)^2 / variance, whatever k is.

    Args:
      x_bhwc: [B, H, W, C] in float32 or wider.
      near_c: [C] k, a guess of the means, equal on all devices. A constant to
        the gradient.

    Raises:
      SpecError: groups do not fill the batch, or split a device's samples.
    """
    b, h, w, c = x_bhwc.shape
    here, spanned = self._groups(b)
    near_c = lax.stop_gradient(jnp.broadcast_to(near_c, (c,)))
    x_gnhwc = x_bhwc.reshape(here, b // here, h, w, c)
    x_gnhwc = x_gnhwc - near_c[None, None, None, None]
    # One pass, so that both sums cross the devices in one all-reduce and come
    # out of the convolution before them. A guess taken from the batch, or a
    # second pass, would read the map once more.
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
    """In one group, of a batch with `b` samples here."""
    here, spanned = self._groups(b)
    return b // here * spanned

  def _groups(self, samples: int) -> tuple[int, int]:
    """How many groups lie here, and over how many devices one is spread."""
    b = samples // self.passes
    size = self.group_size or b * self.split.devices
    here, spanned = max(1, b // size), max(1, size // b)
    fits = b % size == 0 if b >= size else size % b == 0
    if not fits or self.split.devices % spanned:
      devices = self.split.devices
      raise SpecError(
        f"model.batch_norm_group_size={size} does not fit {b} samples on each "
        f"of {devices} devices: a group is a divisor of {b}, or {b} times a "
        f"divisor of {devices}; use {b} (each device for itself) or 0 (the "
        "whole batch)"
      )
    return self.passes * here, spanned


class BatchNorm(nn.Module):
  """Normalizes channels, then applies a gain and a bias made elsewhere.

  All in float32 or wider, folded into one factor and one term for each
  channel; the result has the map's dtype. Running statistics live in
  `batch_stats`, as means over the groups that lie here; the variance there is
  the unbiased one, as in PyTorch. In training their mean is also the guess
  that keeps the batch's variance exact where means are large (`Moments`).

  Attributes:
    momentum: share of the old running statistics kept by an update.
    epsilon: added to the variance.
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
    """[B, H, W, C] to the same; `train` uses and records the batch's.

    Gain and bias are [B, C] or broadcast to it.
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
    """Running statistics after each pass in turn."""
    passes = self.moments.passes
    means_pc = jnp.mean(
      found_gc.reshape(passes, -1, found_gc.shape[-1]), axis=1
    )
    for i in range(passes):
      keep = self.momentum
      running_c = keep * running_c + (1 - keep) * means_pc[i]
    return running_c


class AffineBatchNorm(nn.Module):
  """Batch norm with one learned gain and bias a channel."""

  momentum: float
  epsilon: float
  dtype: str
  moments: Moments = Moments()

  @nn.compact
  def __call__(self, x_bhwc: Array, *, train: bool) -> Array:
    """[B, H, W, C] to the same."""
    channels = x_bhwc.shape[-1]
    gain = self.param("gain", nn.initializers.ones, (channels,), self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.dtype)
    return BatchNorm(self.momentum, self.epsilon, self.moments, name="norm")(
      x_bhwc, gain[None], bias[None], train=train
    )


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
    moments: see `BatchNorm`.
  """

  momentum: float
  epsilon: float
  dtype: str
  num_classes: int = 0
  moments: Moments = Moments()

  @nn.compact
  def __call__(self, x_bhwc: Array, condition: Array, *, train: bool) -> Array:
    """[B, H, W, C] to the same."""
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
