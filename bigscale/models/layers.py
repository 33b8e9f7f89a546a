"""Layers that more than one model uses."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigscale.ops import grouped_conv
from bigscale.types import Array

Initializer = Callable[..., Array]


def scaled_normal(gain: float, fan_in: int) -> Initializer:
  """N(0, gain / sqrt(fan_in)); gain 0 gives zeros."""
  return nn.initializers.normal(gain / fan_in**0.5)


def uniform_bias(fan_in: int) -> Initializer:
  """U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): PyTorch's default for a bias."""
  bound = fan_in**-0.5

  def init(key: Array, shape: Sequence[int], dtype: str) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """Convolution that keeps H and W. Weights are cast to the input's dtype.

  Attributes:
    features: output channels.
    size: of the square kernel.
    dtype: of the weights.
    kernel_init: of the weights; None is N(0, 1 / sqrt(fan-in)).
    use_bias: adds a bias, PyTorch's default at the start.
    groups: of a grouped convolution.
    apply: how to convolve; takes x_bhwc and w_hwio.
  """

  features: int
  size: int
  dtype: str
  kernel_init: Initializer | None = None
  use_bias: bool = False
  groups: int = 1
  apply: Callable[[Array, Array], Array] = grouped_conv.conv

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """[B, H, W, C] to [B, H, W, features]."""
    group_in = x_bhwc.shape[-1] // self.groups
    fan_in = group_in * self.size**2
    w_hwio = self.param(
      "kernel",
      self.kernel_init or scaled_normal(1.0, fan_in),
      (self.size, self.size, group_in, self.features),
      self.dtype,
    )
    y_bhwc = self.apply(x_bhwc, w_hwio.astype(x_bhwc.dtype))
    if not self.use_bias:
      return y_bhwc
    bias_c = self.param(
      "bias", uniform_bias(fan_in), (self.features,), self.dtype
    )
    return y_bhwc + bias_c.astype(x_bhwc.dtype).reshape(1, 1, 1, -1)


class Dense(nn.Module):
  """Matrix product.

  Attributes:
    features: output channels.
    dtype: of the weights.
    kernel_init: of the weights; None is N(0, 1 / sqrt(fan-in)).
    use_bias: adds a bias, PyTorch's default at the start.
  """

  features: int
  dtype: str
  kernel_init: Initializer | None = None
  use_bias: bool = False

  @nn.compact
  def __call__(self, x_bi: Array) -> Array:
    """[B, I] to [B, features]."""
    fan_in = x_bi.shape[-1]
    w_io = self.param(
      "kernel",
      self.kernel_init or scaled_normal(1.0, fan_in),
      (fan_in, self.features),
      self.dtype,
    )
    y_bo = x_bi @ w_io.astype(x_bi.dtype)
    if not self.use_bias:
      return y_bo
    bias_o = self.param(
      "bias", uniform_bias(fan_in), (self.features,), self.dtype
    )
    return y_bo + bias_o.astype(x_bi.dtype).reshape(1, -1)


class Embedding(nn.Module):
  """A row of a table for every class.

  Attributes:
    num_classes: rows.
    features: length of a row.
    table_init: of the table, which is called `embedding` to set it apart from
      kernels.
    dtype: of the table.
  """

  num_classes: int
  features: int
  table_init: Initializer
  dtype: str

  @nn.compact
  def __call__(self, labels: Array) -> Array:
    """[B] int32 to [B, features]."""
    shape = (self.num_classes, self.features)
    table = self.param("embedding", self.table_init, shape, self.dtype)
    return jnp.take(table, labels, axis=0)
