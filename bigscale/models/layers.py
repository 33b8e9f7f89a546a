"""Layers that several families use."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigscale.ops import grouped_conv
from bigscale.spec import ModelBase
from bigscale.types import Array

Initializer = Callable[..., Array]


def scaled_normal(gain: float, fan_in: int) -> Initializer:
  """Returns the initializer N(0, gain / sqrt(fan_in)); gain 0 is zeros."""
  return nn.initializers.normal(gain / fan_in**0.5)


def uniform_bias(fan_in: int) -> Initializer:
  """Returns PyTorch's bias initializer, U(-b, b) with b = fan_in^(-1/2)."""
  bound = fan_in**-0.5

  def init(key: Array, shape: Sequence[int], dtype: str) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """A convolution that keeps H and W.

  Weights are cast to the input's dtype.

  Attributes:
    features: number of output channels.
    size: side of the square kernel.
    dtype: dtype of the weights.
    kernel_init: initializer of the weights; None is N(0, 1 / sqrt(fan-in)).
    use_bias: whether to add a bias, initialized as in PyTorch.
    groups: number of groups of a grouped convolution.
    apply: function that convolves x_bhwc with w_hwio.
    kept: number of leading output channels to compute; 0 computes all.
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
    """Maps [B, H, W, C] to [B, H, W, kept or features]."""
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
  """A linear layer.

  Attributes:
    features: number of output channels.
    dtype: dtype of the weights.
    kernel_init: initializer of the weights; None is N(0, 1 / sqrt(fan-in)).
    use_bias: whether to add a bias, initialized as in PyTorch.
  """

  features: int
  dtype: str
  kernel_init: Initializer | None = None
  use_bias: bool = False

  @nn.compact
  def __call__(self, x_bi: Array) -> Array:
    """Maps [B, I] to [B, features]."""
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
  """A table with one row per class.

  Attributes:
    num_classes: number of rows.
    features: length of a row.
    table_init: initializer of the table. The parameter is called `embedding`,
      so that it is not selected as a kernel.
    dtype: dtype of the table.
  """

  num_classes: int
  features: int
  table_init: Initializer
  dtype: str

  @nn.compact
  def __call__(self, labels: Array) -> Array:
    """Maps labels to rows [B, features].

    Args:
      labels: [B] int32, or weights of the classes [B, num_classes]. Weights mix
        the rows; one-hot weights select a single row.
    """
    shape = (self.num_classes, self.features)
    table = self.param("embedding", self.table_init, shape, self.dtype)
    if labels.ndim == 2:
      shares_bn = labels.astype(table.dtype)
      return jnp.matmul(shares_bn, table, precision=jax.lax.Precision.HIGHEST)
    return jnp.take(table, labels, axis=0)


def stage_dtype(spec: ModelBase, side: int) -> jnp.dtype:
  """Returns the dtype that a layer computes in on maps of a side, px.

  The `bf16_stages` highest resolutions compute in bfloat16.
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
  """Computes the logits of a projection discriminator (Miyato and Koyama 2018).

  Applies ReLU, a sum over positions, and a linear layer (`linear`), and adds
  the product with the class embedding (`projection`). The sum and all that
  follows compute in `dtype`. Must be called in a compact module.

  Args:
    x_bhwc: the last map.
    labels: [B] int32.
    num_classes: number of classes; 0 omits the projection.
    init: initializer of both weights.
    dtype: dtype of both weights.

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
