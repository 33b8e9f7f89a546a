"""Layers that more than one model uses."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigscale.ops import grouped_conv
from bigscale.spec import ModelBase
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
    kept: where positive, how many of the outputs are computed: the first.
  """

  features: int
  size: int
  dtype: str
  kernel_init: Initializer | None = None
  use_bias: bool = False
  groups: int = 1
  apply: Callable[[Array, Array], Array] = grouped_conv.conv
  kept: int = 0

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """[B, H, W, C] to [B, H, W, kept or features]."""
    kept = self.kept or self.features
    group_in = x_bhwc.shape[-1] // self.groups
    fan_in = group_in * self.size**2
    w_hwio = self.param(
      "kernel",
      self.kernel_init or scaled_normal(1.0, fan_in),
      (self.size, self.size, group_in, self.features),
      self.dtype,
    )
    y_bhwc = self.apply(x_bhwc, w_hwio[..., :kept].astype(x_bhwc.dtype))
    if not self.use_bias:
      return y_bhwc
    bias_c = self.param(
      "bias", uniform_bias(fan_in), (self.features,), self.dtype
    )
    return y_bhwc + bias_c[:kept].astype(x_bhwc.dtype).reshape(1, 1, 1, -1)


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
    """[B] int32, or shares of the classes [B, num_classes], to [B, features].

    Shares mix the rows: one-hot ones give what the labels would.
    """
    shape = (self.num_classes, self.features)
    table = self.param("embedding", self.table_init, shape, self.dtype)
    if labels.ndim == 2:
      shares_bn = labels.astype(table.dtype)
      return jnp.matmul(shares_bn, table, precision=jax.lax.Precision.HIGHEST)
    return jnp.take(table, labels, axis=0)


def stage_dtype(spec: ModelBase, side: int) -> jnp.dtype:
  """In which a layer computes on maps of that side, px.

  The last `bf16_stages` resolutions are half precision.
  """
  half = side * 2**spec.bf16_stages > spec.resolution
  return jnp.dtype(jnp.bfloat16 if half else spec.dtype)


def projection_logits(
  x_bhwc: Array,
  labels: Array,
  num_classes: int,
  init: Initializer,
  dtype: str,
) -> Array:
  """The end of a projection discriminator (Miyato and Koyama 2018).

  ReLU, sum over places, a linear layer (`linear`) plus the product with the
  class's embedding (`projection`). From the sum on in `dtype`. To be called in
  a compact module.

  Args:
    x_bhwc: last map.
    labels: [B] int32.
    num_classes: 0 leaves the projection out.
    init: of both weights.
    dtype: of both weights.

  Returns:
    Logits [B].
  """
  features_bc = jnp.sum(nn.relu(x_bhwc), axis=(1, 2), dtype=dtype)
  logits = Dense(1, dtype, init, use_bias=True, name="linear")(features_bc)
  if not num_classes:
    return logits[:, 0]
  class_bc = Embedding(
    num_classes, features_bc.shape[1], init, dtype, name="projection"
  )(labels)
  return logits[:, 0] + jnp.sum(class_bc * features_bc, axis=1)
