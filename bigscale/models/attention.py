"""Self-attention over the places of a map (Zhang et al. 2019, sec. 3)."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from bigscale.models.layers import Conv, pool2x
from bigscale.ops import grouped_conv, precision
from bigscale.types import Array


class Attention(nn.Module):
  """Self-attention with pooled keys and values, its gain starting at 0.

  As BigGAN's code has it: keys of an eighth of the channels, values of half
  of them, no biases. In the map's dtype, but the softmax at least in float32.

  Attributes:
    dtype: of the weights.
  """

  dtype: str

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """[B, H, W, C] to the same; H and W even, C 8 or more."""
    b, h, w, c = x_bhwc.shape
    conv = functools.partial(
      Conv,
      size=1,
      dtype=self.dtype,
      kernel_init=nn.initializers.orthogonal(),
    )
    query_bnk = conv(c // 8, name="theta")(x_bhwc).reshape(b, h * w, -1)
    # Keys and values by one product and one pooling: few channels take as long
    # as many.
    kernels = (
      conv(c // 8, apply=_kernel_alone, name="phi")(x_bhwc),
      conv(c // 2, apply=_kernel_alone, name="g")(x_bhwc),
    )
    both = grouped_conv.conv(x_bhwc, jnp.concatenate(kernels, axis=-1))
    both_bml = pool2x(both, jnp.max).reshape(b, h * w // 4, -1)
    key_bmk, value_bmv = jnp.split(both_bml, [c // 8], axis=-1)
    out_bnv = _attend(query_bnk, key_bmk, value_bmv)
    out_bhwc = conv(c, name="o")(out_bnv.reshape(b, h, w, -1))
    gamma = self.param("gamma", nn.initializers.zeros, (), self.dtype)
    return gamma.astype(x_bhwc.dtype) * out_bhwc + x_bhwc


def _kernel_alone(x_bhwc: Array, w_hwio: Array) -> Array:
  """A convolution's weights, for one that has several."""
  del x_bhwc
  return w_hwio


def _attend(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Means of the values, weighed by the softmax over m of query times key.

  The softmax divides last, where there are v and not m numbers a place, and
  its sum is one more column of the product with the values: a TPU would pass
  over all n x m weights once more for either.
  """
  dtype = query_bnk.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  score_bnm = jnp.einsum("bnk,bmk->bnm", query_bnk, key_bmk).astype(wide)
  top_bn1 = lax.stop_gradient(jnp.max(score_bnm, axis=-1, keepdims=True))
  weight_bnm = jnp.exp(score_bnm - top_bn1).astype(dtype)
  ones_bm1 = jnp.ones_like(value_bmv[..., :1])
  einsum = jnp.einsum if dtype == wide else precision.half(jnp.einsum)
  sums_bnv = einsum(
    "bnm,bmv->bnv",
    weight_bnm,
    jnp.concatenate([value_bmv, ones_bm1], axis=-1),
    preferred_element_type=wide,
  )
  return (sums_bnv[..., :-1] / sums_bnv[..., -1:]).astype(dtype)
