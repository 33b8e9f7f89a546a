"""Stripped StyleGAN2's networks: configs B and C of R3GAN's roadmap.

Huang et al. 2024 (sec. 3) reduce StyleGAN2 to the following. G has a learned
4x4 basis, two 3x3 convolutions per resolution, leaky ReLU, and images summed
over resolutions (output skips), without tanh. D has residual blocks and a head
of two linear layers. The mapping network, modulation, noise, normalization of
z, minibatch standard deviation and the equalized learning rate are removed. B
and C differ only in the loss. The authors published no code for either, but the
parameter counts of their table are reproduced exactly (18.890 M and 23.996 M).
The paper leaves these choices open:

- z enters as in configs D and E: the basis is multiplied by a linear layer of
  z without bias. The parameter count excludes anything else.
- Weights start as N(0, gain / sqrt(fan-in)), without equalized learning rate,
  with gain sqrt(2 / 1.04) before a leaky ReLU (He et al. 2015) and 1
  elsewhere; biases start at zero. The activation then needs no gain, while
  StyleGAN2 multiplies by sqrt(2) after it.
- The sum of a residual block is divided by sqrt(2), as in StyleGAN2.
- Filters and convolutions are separate, while StyleGAN2 fuses them into strided
  ones. The function is the same except at the borders, but these layers need
  up to 4 times the multiplications.
- The paper's models B and C have no classes. Here, G concatenates the class
  embedding to z, as R3GAN does, and D adds a projection (Miyato and Koyama
  2018).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.blocks import Gather, block
from bigscale.models.layers import (
  Conv,
  Dense,
  Embedding,
  scaled_normal,
  stage_dtype,
)
from bigscale.models.networks import gan_model, is_kernel
from bigscale.models.r3gan.networks import LEAKY_GAIN, BiasAct
from bigscale.models.stripped_stylegan2.spec import StrippedSpec
from bigscale.ops.resample import downsample2x, upsample2x
from bigscale.types import Array, GanModel


def _unchanged(x_bhwc: Array) -> Array:
  return x_bhwc


class ConvAct(nn.Module):
  """Convolution, resampling, bias and leaky ReLU.

  Attributes:
    features: number of output channels.
    size: side of the square kernel.
    dtype: dtype of the weights.
    resample: function applied between the convolution and the bias.
  """

  features: int
  size: int
  dtype: str
  resample: Callable[[Array], Array] = _unchanged

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to [B, H, W, features], resampled."""
    init = scaled_normal(LEAKY_GAIN, x_bhwc.shape[-1] * self.size**2)
    y_bhwc = Conv(self.features, self.size, self.dtype, init, name="conv")(
      x_bhwc
    )
    return BiasAct(self.dtype, name="act")(self.resample(y_bhwc))


class ToRgb(nn.Module):
  """A 1x1 convolution to an image, with a bias that starts at zero."""

  channels: int
  dtype: str

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to [B, H, W, channels]."""
    y_bhwc = Conv(self.channels, 1, self.dtype, name="conv")(x_bhwc)
    bias_c = self.param(
      "bias", nn.initializers.zeros, (self.channels,), self.dtype
    )
    return y_bhwc + bias_c.astype(x_bhwc.dtype).reshape(1, 1, 1, -1)


class ResidualBlock(nn.Module):
  """(skip(x) + act(down(conv(act(conv(x)))))) / sqrt(2), at half the side."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to [B, H/2, W/2, features]."""
    channels = x_bhwc.shape[-1]
    y_bhwc = ConvAct(channels, 3, self.dtype, name="conv0")(x_bhwc)
    y_bhwc = ConvAct(self.features, 3, self.dtype, downsample2x, name="conv1")(
      y_bhwc
    )
    skip_bhwc = Conv(self.features, 1, self.dtype, name="skip")(
      downsample2x(x_bhwc)
    )
    return (skip_bhwc + y_bhwc) * 0.5**0.5


class Generator(nn.Module):
  """A learned 4x4 basis scaled by the latents, and upsampling stages."""

  spec: StrippedSpec
  gather: Gather | None = None

  @nn.compact
  def __call__(self, latents: Array, labels: Array, *, train: bool) -> Array:
    """Maps latents [B, latent_dim] and labels [B] to images [B, H, W, C]."""
    del train  # Only batch norm would need it.
    spec, dtype = self.spec, self.spec.dtype
    code_bz = latents.astype(dtype)
    if spec.num_classes:
      class_by = Embedding(
        spec.num_classes,
        spec.class_embedding_dim,
        scaled_normal(1.0, spec.num_classes),
        dtype,
        name="classes",
      )(labels)
      code_bz = jnp.concatenate([code_bz, class_by], axis=-1)
    width = spec.widths[0]
    basis_hwc = self.param(
      "basis", nn.initializers.normal(1.0), (4, 4, width), dtype
    )
    scale_bc = Dense(width, dtype, name="latents")(code_bz)
    x_bhwc = basis_hwc[None] * scale_bc[:, None, None, :]
    image_bhwc = None
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    for stage, width in enumerate(spec.widths):
      side = 4 * 2**stage
      x_bhwc = x_bhwc.astype(stage_dtype(spec, side))
      if stage:
        x_bhwc = make_block(ConvAct, f"stage{side}_conv0")(width, 3, dtype)(
          upsample2x(x_bhwc)
        )
      x_bhwc = make_block(ConvAct, f"stage{side}_conv1")(width, 3, dtype)(
        x_bhwc
      )
      rgb_bhwc = ToRgb(spec.image_channels, dtype, name=f"stage{side}_to_rgb")(
        x_bhwc
      ).astype(dtype)
      if image_bhwc is not None:
        rgb_bhwc = rgb_bhwc + upsample2x(image_bhwc)
      image_bhwc = rgb_bhwc
    return image_bhwc


class Discriminator(nn.Module):
  """Downsampling residual blocks, a 3x3 convolution and two linear layers."""

  spec: StrippedSpec
  gather: Gather | None = None

  @nn.compact
  def __call__(self, images: Array, labels: Array) -> Array:
    """Maps images [B, H, W, C] and labels [B] to logits [B]."""
    spec, dtype = self.spec, self.spec.dtype
    x_bhwc = ConvAct(spec.widths[-1], 1, dtype, name="from_rgb")(
      images.astype(stage_dtype(spec, spec.resolution))
    )
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    for stage in range(len(spec.widths) - 1, 0, -1):
      side = 4 * 2**stage
      x_bhwc = make_block(ResidualBlock, f"stage{side}")(
        spec.widths[stage - 1], dtype
      )(x_bhwc.astype(stage_dtype(spec, side)))
    width = spec.widths[0]
    x_bhwc = make_block(ConvAct, "stage4")(width, 3, dtype)(
      x_bhwc.astype(stage_dtype(spec, 4))
    )
    x_bi = x_bhwc.reshape(x_bhwc.shape[0], -1).astype(dtype)
    x_bc = Dense(
      width, dtype, scaled_normal(LEAKY_GAIN, x_bi.shape[1]), name="features"
    )(x_bi)
    x_bc = BiasAct(dtype, name="features_act")(x_bc)
    bias = self.param("logit_bias", nn.initializers.zeros, (1,), dtype)
    logits = Dense(1, dtype, name="logit")(x_bc)[:, 0] + bias
    if not spec.num_classes:
      return logits
    class_bc = Embedding(
      spec.num_classes,
      width,
      scaled_normal(1.0, width),
      dtype,
      name="classes",
    )(labels)
    return logits + jnp.sum(class_bc * x_bc, axis=-1)


def make(spec: StrippedSpec, gather: Gather | None = None) -> GanModel:
  """Builds the two networks as pure functions.

  Args:
    spec: spec of the model.
    gather: function that gathers sharded parameters; see `models.blocks`.
  """
  return gan_model(
    Generator(spec),
    Discriminator(spec),
    spec,
    gather,
    g_orthogonal=is_kernel,
    d_orthogonal=is_kernel,
  )
