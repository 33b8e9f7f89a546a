"""BigGAN-deep's networks (Brock et al. 2019, app. B, tables 7 to 9).

The blocks and their order are those of the authors' PyTorch code and of the
official weights. These two differ only in the order of the condition and the
width of the last convolution (`BigganDeepSpec.layout`). Attention follows the
last block of its resolution. The official generator applies it before the next
block, which is the same position.

Spectral norm is not part of the modules; see `bigscale.models.biggan.networks`.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.attention import Attention
from bigscale.models.biggan.networks import wrap
from bigscale.models.biggan_deep.spec import (
  D_WIDTHS,
  G_WIDTHS,
  REDUCTION,
  BigganDeepSpec,
  sides,
)
from bigscale.models.blocks import Gather, block
from bigscale.models.layers import (
  Conv,
  Dense,
  Embedding,
  projection_logits,
  stage_dtype,
)
from bigscale.models.networks import is_kernel
from bigscale.models.norms import (
  AffineBatchNorm,
  ConditionalBatchNorm,
  Moments,
)
from bigscale.ops import resample_conv
from bigscale.ops.resample import pool2x
from bigscale.types import WHOLE_BATCH, Array, BatchSplit, GanModel

_orthogonal = nn.initializers.orthogonal()


class GeneratorBlock(nn.Module):
  """1x1, 3x3, 3x3 and 1x1, each after BN-ReLU, with an identity shortcut.

  Attributes:
    spec: spec of the model.
    features: number of output channels, at most that of the input. The shortcut
      drops the last channels.
    upsample: whether to double the side, before the first 3x3.
    platform: platform of the devices.
    moments: which samples share batch norm statistics.
    train: whether to normalize with the batch's statistics.
  """

  spec: BigganDeepSpec
  features: int
  upsample: bool
  platform: str
  moments: Moments
  train: bool

  @nn.compact
  def __call__(self, x_bhwc: Array, condition: Array) -> Array:
    """Maps [B, H, W, C] to [B, H or 2H, W or 2W, features]."""
    spec = self.spec
    inner = x_bhwc.shape[-1] // REDUCTION
    conv = functools.partial(
      Conv, dtype=spec.dtype, kernel_init=_orthogonal, use_bias=True
    )

    def activate(x: Array, name: str) -> Array:
      norm = ConditionalBatchNorm(
        spec.batch_norm_momentum,
        spec.batch_norm_epsilon,
        spec.dtype,
        moments=self.moments,
        name=name,
      )
      return nn.relu(norm(x, condition, train=self.train))

    y = conv(inner, size=1, name="conv1")(activate(x_bhwc, "norm1"))
    y = activate(y, "norm2")
    shortcut = x_bhwc[..., : self.features]
    conv2 = functools.partial(conv, inner, size=3, name="conv2")
    if self.upsample:
      upsample_conv = functools.partial(
        resample_conv.upsample_conv, platform=self.platform
      )
      y = conv2(apply=upsample_conv)(y)
      shortcut = resample_conv.upsample_nearest2x(shortcut)
    else:
      y = conv2()(y)
    y = conv(inner, size=3, name="conv3")(activate(y, "norm3"))
    y = conv(self.features, size=1, name="conv4")(activate(y, "norm4"))
    return y + shortcut


class Generator(nn.Module):
  """A linear layer to 4x4, upsampling stages, and BN-ReLU-3x3-tanh."""

  spec: BigganDeepSpec
  platform: str
  moments: Moments
  gather: Gather | None = None

  @nn.compact
  def __call__(self, latents: Array, labels: Array, *, train: bool) -> Array:
    """Maps latents [B, latent_dim] and labels [B] to images [B, H, W, C]."""
    spec = self.spec
    first, *widths = (spec.g_width * m for m in G_WIDTHS[spec.resolution])
    condition = self._condition(latents, labels)
    x_bhwc = Dense(
      4 * 4 * first, spec.dtype, _orthogonal, use_bias=True, name="linear"
    )(condition).reshape(-1, 4, 4, first)
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    _, *above = sides(spec.resolution)
    for stage, (width, side) in enumerate(zip(widths, above, strict=True)):
      for place in range(spec.g_depth):
        is_last = place == spec.g_depth - 1
        index = stage * spec.g_depth + place
        dtype = stage_dtype(spec, side if is_last else side // 2)
        x_bhwc = make_block(GeneratorBlock, f"block{index}")(
          spec,
          width if is_last else x_bhwc.shape[-1],
          upsample=is_last,
          platform=self.platform,
          moments=self.moments,
          train=train,
        )(x_bhwc.astype(dtype), condition)
      if side in spec.g_attention:
        attention = make_block(Attention, f"attention{index}")
        x_bhwc = attention(spec.dtype, self.platform)(x_bhwc)
    norm = AffineBatchNorm(
      spec.batch_norm_momentum,
      spec.batch_norm_epsilon,
      spec.dtype,
      self.moments,
      name="output_norm",
    )
    rgb_bhwc = self._to_rgb(nn.relu(norm(x_bhwc, train=train)))
    # As in BigGAN, images are not bfloat16.
    return jnp.tanh(rgb_bhwc.astype(spec.dtype))

  def _condition(self, latents: Array, labels: Array) -> Array:
    """Returns the condition of the first layer and all norms, [B, N]."""
    spec = self.spec
    latents = latents.astype(spec.dtype)
    if not spec.num_classes:
      return latents
    # No spectral norm, as in BigGAN.
    classes = Embedding(
      spec.num_classes, spec.shared_dim, _orthogonal, spec.dtype, name="shared"
    )(labels)
    parts = [latents, classes]
    if spec.layout == "pytorch":
      parts = [classes, latents]
    return jnp.concatenate(parts, axis=1)

  def _to_rgb(self, x_bhwc: Array) -> Array:
    """Applies the last convolution.

    The official one has `g_width` output channels, of which only the first
    `image_channels` are used.
    """
    spec = self.spec
    is_wide = spec.layout == "tfhub"
    return Conv(
      spec.g_width if is_wide else spec.image_channels,
      size=3,
      dtype=spec.dtype,
      kernel_init=_orthogonal,
      use_bias=True,
      kept=spec.image_channels,
      name="to_rgb",
    )(x_bhwc)


class DiscriminatorBlock(nn.Module):
  """ReLU-1x1, ReLU-3x3, ReLU-3x3 and ReLU-[pool]-1x1, with a shortcut.

  Attributes:
    spec: spec of the model.
    features: number of output channels, at least that of the input. A 1x1
      convolution adds the missing channels to the shortcut, which is otherwise
      the identity.
    downsample: whether to halve the side, before the last 1x1.
  """

  spec: BigganDeepSpec
  features: int
  downsample: bool

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to [B, H or H/2, W or W/2, features]."""
    inner = self.features // REDUCTION
    conv = functools.partial(
      Conv, dtype=self.spec.dtype, kernel_init=_orthogonal, use_bias=True
    )
    y = nn.relu(conv(inner, size=1, name="conv1")(nn.relu(x_bhwc)))
    y = nn.relu(conv(inner, size=3, name="conv2")(y))
    y = nn.relu(conv(inner, size=3, name="conv3")(y))
    if self.downsample:
      y, x_bhwc = pool2x(y, jnp.mean), pool2x(x_bhwc, jnp.mean)
    y = conv(self.features, size=1, name="conv4")(y)
    lacking = self.features - x_bhwc.shape[-1]
    if lacking:
      added = conv(lacking, size=1, name="shortcut")(x_bhwc)
      x_bhwc = jnp.concatenate([x_bhwc, added], axis=-1)
    return y + x_bhwc


class Discriminator(nn.Module):
  """3x3, stages of downsampling blocks to 4x4, ReLU, sum, and projection."""

  spec: BigganDeepSpec
  platform: str
  gather: Gather | None = None

  @nn.compact
  def __call__(self, images: Array, labels: Array) -> Array:
    """Maps images [B, H, W, C] and labels [B] to logits [B]."""
    spec = self.spec
    first, *widths = (spec.d_width * m for m in D_WIDTHS[spec.resolution])
    x_bhwc = Conv(
      first,
      size=3,
      dtype=spec.dtype,
      kernel_init=_orthogonal,
      use_bias=True,
      name="from_rgb",
    )(images.astype(stage_dtype(spec, spec.resolution)))
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    for stage, width in enumerate(widths):
      for place in range(spec.d_depth):
        x_bhwc = make_block(DiscriminatorBlock, f"block{stage}_{place}")(
          spec, width, downsample=place == 0
        )(x_bhwc.astype(stage_dtype(spec, x_bhwc.shape[1])))
      if x_bhwc.shape[1] in spec.d_attention:
        attention = make_block(Attention, f"attention{stage}")
        x_bhwc = attention(spec.dtype, self.platform)(x_bhwc)
    return projection_logits(
      x_bhwc, labels, spec.num_classes, _orthogonal, spec.dtype
    )


def make(
  spec: BigganDeepSpec,
  platform: str,
  split: BatchSplit = WHOLE_BATCH,
  gather: Gather | None = None,
) -> GanModel:
  """Builds the two networks as pure functions.

  Args:
    spec: spec of the model.
    platform: platform of the devices that will run it (`cpu`, `gpu`, `tpu`).
    split: how the training batch is split over devices.
    gather: function that gathers sharded parameters; see `models.blocks`.
  """
  return wrap(
    Generator(spec, platform, Moments(spec.batch_norm_group_size, split)),
    Discriminator(spec, platform),
    spec,
    gather,
    is_kernel,
  )
