"""Self-attention over the places of a map (Zhang et al. 2019, sec. 3)."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.layers import Conv
from bigscale.ops import attention, pooled_conv
from bigscale.types import Array


class Attention(nn.Module):
  """Self-attention with pooled keys and values, its gain starting at 0.

  As BigGAN's code has it: keys of an eighth of the channels, values of half
  of them, no biases. In the map's dtype, but the softmax at least in float32.

  Attributes:
    dtype: of the weights.
    platform: of the devices that run it: `cpu`, `gpu` or `tpu`.
  """

  dtype: str
  platform: str = "cpu"

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
    pool = pooled_conv.FORMULATIONS[pooled_conv.choose(self.platform)]
    both_bhwc = pool(x_bhwc, jnp.concatenate(kernels, axis=-1))
    both_bml = both_bhwc.reshape(b, h * w // 4, -1)
    key_bmk, value_bmv = jnp.split(both_bml, [c // 8], axis=-1)
    attend = attention.FORMULATIONS[attention.choose(self.platform)]
    out_bnv = attend(query_bnk, key_bmk, value_bmv)
    out_bhwc = conv(c, name="o")(out_bnv.reshape(b, h, w, -1))
    gamma = self.param("gamma", nn.initializers.zeros, (), self.dtype)
    return gamma.astype(x_bhwc.dtype) * out_bhwc + x_bhwc


def _kernel_alone(x_bhwc: Array, w_hwio: Array) -> Array:
  """A convolution's weights, for one that has several."""
  del x_bhwc
  return w_hwio
