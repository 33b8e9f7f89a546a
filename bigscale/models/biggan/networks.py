"""BigGAN's networks (Brock et al. 2019, app. B; tables from the authors' code).

Spectral norm is not part of the modules. The training step normalizes the
parameters before `apply` (`bigscale.ops.spectral`); `Network.spectral` selects
the parameters.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.attention import Attention
from bigscale.models.biggan.spec import (
  D_WIDTHS,
  G_WIDTHS,
  BigganSpec,
  d_sides,
  d_smallest_side,
  g_sides,
)
from bigscale.models.blocks import Gather, block
from bigscale.models.layers import (
  Conv,
  Dense,
  Embedding,
  projection_logits,
  stage_dtype,
)
from bigscale.models.networks import Select, gan_model, is_kernel, never
from bigscale.models.norms import (
  AffineBatchNorm,
  ConditionalBatchNorm,
  Moments,
)
from bigscale.ops import resample_conv
from bigscale.spec import ModelBase
from bigscale.types import WHOLE_BATCH, Array, BatchSplit, GanModel

_orthogonal = nn.initializers.orthogonal()


class GeneratorBlock(nn.Module):
  """BN-ReLU-upsample-3x3-BN-ReLU-3x3, with a 1x1 shortcut."""

  spec: BigganSpec
  features: int
  platform: str
  moments: Moments
  train: bool

  @nn.compact
  def __call__(self, x_bhwc: Array, condition: Array | None) -> Array:
    """Maps [B, H, W, C] to [B, 2H, 2W, features]."""
    conv = functools.partial(
      Conv,
      self.features,
      dtype=self.spec.dtype,
      kernel_init=_orthogonal,
      use_bias=True,
    )
    upsample = functools.partial(
      conv,
      apply=functools.partial(
        resample_conv.upsample_conv, platform=self.platform
      ),
    )
    norm = functools.partial(
      _norm, self.spec, self.moments, condition, self.train
    )
    y = nn.relu(norm(x_bhwc, name="norm1"))
    y = upsample(size=3, name="conv1")(y)
    y = nn.relu(norm(y, name="norm2"))
    y = conv(size=3, name="conv2")(y)
    return y + upsample(size=1, name="shortcut")(x_bhwc)


def _norm(
  spec: BigganSpec,
  moments: Moments,
  condition: Array | None,
  train: bool,
  x: Array,
  name: str,
) -> Array:
  """Applies the batch norm for a condition; called inside a compact module."""
  settings = (spec.batch_norm_momentum, spec.batch_norm_epsilon, spec.dtype)
  if condition is None:
    norm = AffineBatchNorm(*settings, moments, name=name)
    return norm(x, train=train)
  by_class = not (spec.shared_dim or spec.hierarchical)
  norm = ConditionalBatchNorm(
    *settings,
    num_classes=spec.num_classes if by_class else 0,
    moments=moments,
    name=name,
  )
  return norm(x, condition, train=train)


class Generator(nn.Module):
  """A linear layer to 4x4, upsampling blocks, and BN-ReLU-3x3-tanh."""

  spec: BigganSpec
  platform: str
  moments: Moments
  gather: Gather | None = None

  @nn.compact
  def __call__(self, latents: Array, labels: Array, *, train: bool) -> Array:
    """Maps latents [B, latent_dim] and labels [B] to images [B, H, W, C]."""
    spec = self.spec
    first, *widths = (spec.g_width * m for m in G_WIDTHS[spec.resolution])
    first_bz, conditions = self._conditions(latents, labels, len(widths))
    x_bhwc = Dense(
      4 * 4 * first, spec.dtype, _orthogonal, use_bias=True, name="linear"
    )(first_bz).reshape(-1, 4, 4, first)
    sides = g_sides(spec.resolution)
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    for i, (width, side) in enumerate(zip(widths, sides, strict=True)):
      x_bhwc = make_block(GeneratorBlock, f"block{i}")(
        spec, width, self.platform, self.moments, train
      )(x_bhwc.astype(stage_dtype(spec, side)), conditions[i])
      if side in spec.g_attention:
        attention = make_block(Attention, f"attention{i}")
        x_bhwc = attention(spec.dtype, self.platform)(x_bhwc)
    x_bhwc = nn.relu(
      _norm(spec, self.moments, None, train, x_bhwc, name="output_norm")
    )
    rgb_bhwc = Conv(
      spec.image_channels,
      size=3,
      dtype=spec.dtype,
      kernel_init=_orthogonal,
      use_bias=True,
      name="to_rgb",
    )(x_bhwc)
    # Penalties differentiate with respect to images, so images are not
    # bfloat16.
    return jnp.tanh(rgb_bhwc.astype(spec.dtype))

  def _conditions(
    self, latents: Array, labels: Array, blocks: int
  ) -> tuple[Array, list[Array | None]]:
    """Returns the input of the first layer and the conditions of the blocks.

    A condition is [y, z_i], in the order of the authors' PyTorch code.
    """
    spec = self.spec
    latents = latents.astype(spec.dtype)
    chunks = [latents] + [None] * blocks
    if spec.hierarchical:
      chunks = jnp.split(latents, blocks + 1, axis=1)
    per_layer_tables = spec.num_classes and not spec.shared_dim
    if per_layer_tables and not spec.hierarchical:
      return chunks[0], [labels] * blocks
    parts: list[Array] = []
    if spec.num_classes:
      # The authors omit spectral norm here: it "seems to randomly cripple G".
      dim = spec.shared_dim or spec.num_classes
      parts = [
        Embedding(
          spec.num_classes, dim, _orthogonal, spec.dtype, name="shared"
        )(labels)
      ]
    conditions = []
    for chunk in chunks[1:]:
      seen = parts if chunk is None else [*parts, chunk]
      conditions.append(jnp.concatenate(seen, axis=1) if seen else None)
    return chunks[0], conditions


class DiscriminatorBlock(nn.Module):
  """[ReLU]-3x3-ReLU-3x3-pool, with a 1x1 shortcut."""

  spec: BigganSpec
  features: int
  platform: str
  preactivation: bool
  downsample: bool

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to [B, H/2 or H, W/2 or W, features]."""
    conv = functools.partial(
      Conv, dtype=self.spec.dtype, kernel_init=_orthogonal, use_bias=True
    )
    narrow = self.preactivation and not self.spec.d_wide
    inner = x_bhwc.shape[-1] if narrow else self.features
    y = nn.relu(x_bhwc) if self.preactivation else x_bhwc
    y = nn.relu(conv(inner, size=3, name="conv1")(y))
    if self.downsample:
      apply = functools.partial(resample_conv.conv_pool, platform=self.platform)
      conv = functools.partial(conv, apply=apply)
    y = conv(self.features, size=3, name="conv2")(y)
    if self.downsample or x_bhwc.shape[-1] != self.features:
      x_bhwc = conv(self.features, size=1, name="shortcut")(x_bhwc)
    return y + x_bhwc


class Discriminator(nn.Module):
  """Downsampling blocks, ReLU, a global sum and a projection logit."""

  spec: BigganSpec
  platform: str
  gather: Gather | None = None

  @nn.compact
  def __call__(self, images: Array, labels: Array) -> Array:
    """Maps images [B, H, W, C] and labels [B] to logits [B]."""
    spec = self.spec
    x_bhwc = images
    make_block = functools.partial(block, remat=spec.remat, gather=self.gather)
    for i, (multiplier, side) in enumerate(
      zip(D_WIDTHS[spec.resolution], d_sides(spec.resolution), strict=True)
    ):
      x_bhwc = make_block(DiscriminatorBlock, f"block{i}")(
        spec,
        multiplier * spec.d_width,
        self.platform,
        preactivation=i > 0,
        downsample=x_bhwc.shape[1] > d_smallest_side(spec.resolution),
      )(x_bhwc.astype(stage_dtype(spec, x_bhwc.shape[1])))
      if side in spec.d_attention:
        attention = make_block(Attention, f"attention{i}")
        x_bhwc = attention(spec.dtype, self.platform)(x_bhwc)
    return projection_logits(
      x_bhwc, labels, spec.num_classes, _orthogonal, spec.dtype
    )


def make(
  spec: BigganSpec,
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
    is_kernel if spec.g_spectral else never,
  )


def wrap(
  g: nn.Module,
  d: nn.Module,
  spec: ModelBase,
  gather: Gather | None,
  g_spectral: Select,
) -> GanModel:
  """Wraps two modules with the parameter selections that all BigGANs share.

  Args:
    g: see `gan_model`.
    d: see `gan_model`.
    spec: spec of the model.
    gather: see `gan_model`.
    g_spectral: selects the parameters of G with spectral norm, by path.
  """
  return gan_model(
    g,
    d,
    spec,
    gather,
    g_spectral=g_spectral,
    d_spectral=lambda path: path.endswith(("kernel", "projection/embedding")),
    # As in the authors' code, only the shared embedding is excluded.
    g_orthogonal=lambda path: path != "shared/embedding",
    d_orthogonal=lambda path: not path.endswith("embedding"),
  )
