"""Self-attention over the places of a map (Zhang et al. 2019, sec. 3)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigscale.models.layers import Conv, pool2x
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
    key_bhwk = pool2x(conv(c // 8, name="phi")(x_bhwc), jnp.max)
    value_bhwv = pool2x(conv(c // 2, name="g")(x_bhwc), jnp.max)
    key_bmk = key_bhwk.reshape(b, h * w // 4, -1)
    value_bmv = value_bhwv.reshape(b, h * w // 4, -1)
    score_bnm = jnp.einsum("bnk,bmk->bnm", query_bnk, key_bmk)
    wide = jnp.promote_types(score_bnm.dtype, jnp.float32)
    weight_bnm = jax.nn.softmax(score_bnm.astype(wide), axis=-1)
    weight_bnm = weight_bnm.astype(x_bhwc.dtype)
    out_bnv = jnp.einsum("bnm,bmv->bnv", weight_bnm, value_bmv)
    out_bhwc = conv(c, name="o")(out_bnv.reshape(b, h, w, -1))
    gamma = self.param("gamma", nn.initializers.zeros, (), self.dtype)
    return gamma.astype(x_bhwc.dtype) * out_bhwc + x_bhwc
