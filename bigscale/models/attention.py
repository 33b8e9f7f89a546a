"""Self-attention over the positions of a map (Zhang et al. 2019, sec. 3)."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.layers import Conv
from bigscale.ops import attention, pooled_conv
from bigscale.types import Array


class Attention(nn.Module):
  """Self-attention with pooled keys and values and a gain that starts at 0.

  As in BigGAN's code, keys have an eighth of the channels, values have half of
  them, and there are no biases. It computes in the map's dtype, except that the
  softmax uses at least float32.

  Attributes:
    dtype: dtype of the weights.
    platform: platform of the devices that run it: `cpu`, `gpu` or `tpu`.
  """

  dtype: str
  platform: str = "cpu"

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to the same shape; H and W even, C at least 8."""
    b, h, w, c = x_bhwc.shape
    conv = functools.partial(
      Conv,
      size=1,
      dtype=self.dtype,
      kernel_init=nn.initializers.orthogonal(),
    )
    query_bnk = conv(c // 8, name="theta")(x_bhwc).reshape(b, h * w, -1)
    # One product and one pooling compute both keys and values, because a few
    # channels take as long as many.
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
  """Returns a convolution's weights, to be concatenated with others."""
  del x_bhwc
  return w_hwio
