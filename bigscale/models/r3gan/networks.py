"""R3GAN's networks: plain grouped ResNets (Huang et al. 2024, sec. 4).

They have no normalization, modulation or tanh. A block consists of a 1x1
convolution that widens, a grouped 3x3 and a 1x1 that narrows. The last
convolution starts at zero (Fixup), so a block is initially the identity. The
name of a parameter contains the side of its stage:
`stage16_block0/grouped/kernel` is in the stage that works at 16 x 16.

Two options that are not in the paper come from BigGAN (Brock et al. 2019, app.
B). `hierarchical` gives every stage of G a chunk of z. `shared_embedding` gives
every stage the same class embedding. The code of the first stage scales the
basis. The code of each later stage scales its input channels by 1 +
linear(code). That linear layer starts at zero, so these options do not change
the initial function. BigGAN's conditional batch norm is not used, because R3GAN
has no normalization.
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
from bigscale.models.r3gan.spec import R3ganSpec
from bigscale.ops import grouped_conv
from bigscale.ops.resample import downsample2x, upsample2x
from bigscale.types import WHOLE_BATCH, Array, BatchSplit, GanModel

_SLOPE = 0.2
# Gain for a leaky ReLU (He et al. 2015).
LEAKY_GAIN = (2 / (1 + _SLOPE**2)) ** 0.5


class BiasAct(nn.Module):
  """Adds a bias and applies a leaky ReLU with slope 0.2 and gain 1."""

  dtype: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps an array of any shape, channels last, to the same shape."""
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.dtype)
    bias = bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    x = x + bias
    return jnp.where(x > 0, x, _SLOPE * x)


class Block(nn.Module):
  """x + down(act(grouped(act(up(x))))), without an activation of the sum."""

  spec: R3ganSpec
  cardinality: int
  gain: float
  platform: str

  @nn.compact
  def __call__(self, x_bhwc: Array) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    channels = x_bhwc.shape[-1]
    inner = round(channels * self.spec.expansion)
    conv1x1 = _conv1x1(self.spec, self.platform)
    group_in = inner // self.cardinality
    name = grouped_conv.choose(
      self.spec.grouped_conv,
      self.platform,
      self.cardinality,
      side=x_bhwc.shape[1],
      group_width=group_in,
    )
    grouped = functools.partial(
      grouped_conv.FORMULATIONS[name], groups=self.cardinality
    )
    y = conv1x1(
      inner, kernel_init=scaled_normal(self.gain, channels), name="expand"
    )(x_bhwc)
    y = BiasAct(self.spec.dtype, name="expand_act")(y)
    y = Conv(
      inner,
      size=3,
      dtype=self.spec.dtype,
      kernel_init=scaled_normal(self.gain, 9 * group_in),
      groups=self.cardinality,
      apply=grouped,
      name="grouped",
    )(y)
    y = BiasAct(self.spec.dtype, name="grouped_act")(y)
    return x_bhwc + conv1x1(
      channels, kernel_init=nn.initializers.zeros, name="reduce"
    )(y)


def _conv1x1(spec: R3ganSpec, platform: str) -> Callable[..., Conv]:
  """Returns a 1x1 convolution whose features and name are still to be set."""
  return functools.partial(
    Conv,
    size=1,
    dtype=spec.dtype,
    apply=functools.partial(grouped_conv.conv, platform=platform),
  )


def _block_gain(spec: R3ganSpec) -> float:
  """Fixup: each of L blocks with m = 3 layers scales by L^(-1/(2m - 2))."""
  return LEAKY_GAIN * sum(spec.blocks) ** -0.25


class Generator(nn.Module):
  """A learned 4x4 basis scaled by the latents, and upsampling stages."""

  spec: R3ganSpec
  platform: str
  gather: Gather | None = None

  @nn.compact
  def __call__(self, latents: Array, labels: Array, *, train: bool) -> Array:
    """Maps latents [B, latent_dim] and labels [B] to images [B, H, W, C]."""
    del train  # Only batch norm would need it.
    spec = self.spec
    conv1x1 = _conv1x1(spec, self.platform)
    latents_bz = latents.astype(spec.dtype)
    class_by = latents_bz[:, :0]
    if spec.num_classes:
      class_by = Embedding(
        spec.num_classes,
        spec.class_embedding_dim,
        scaled_normal(1.0, spec.num_classes),
        spec.dtype,
        name="classes",
      )(labels)
    codes = _codes(spec, latents_bz, class_by)
    width = spec.widths[0]
    basis_hwc = self.param(
      "basis", nn.initializers.normal(1.0), (4, 4, width), spec.dtype
    )
    scale_bc = Dense(width, dtype=spec.dtype, name="latents")(codes[0])
    x_bhwc = basis_hwc[None] * scale_bc[:, None, None, :]
    for stage, width in enumerate(spec.widths):
      side = 4 * 2**stage
      x_bhwc = x_bhwc.astype(stage_dtype(spec, side))
      if stage:
        if width != spec.widths[stage - 1]:
          x_bhwc = conv1x1(width, name=f"stage{side}_transition")(x_bhwc)
        x_bhwc = _scale(spec, stage, codes[stage], upsample2x(x_bhwc))
      x_bhwc = _blocks(spec, stage, self.platform, self.gather, x_bhwc)
    image_bhwc = conv1x1(spec.image_channels, name="to_rgb")(x_bhwc)
    # Penalties differentiate with respect to images, so images are not
    # bfloat16.
    return image_bhwc.astype(spec.dtype)


class Discriminator(nn.Module):
  """Downsampling stages, a depthwise 4x4 head, a linear or projection logit."""

  spec: R3ganSpec
  platform: str
  gather: Gather | None = None

  @nn.compact
  def __call__(self, images: Array, labels: Array) -> Array:
    """Maps images [B, H, W, C] and labels [B] to logits [B]."""
    spec = self.spec
    last = len(spec.widths) - 1
    x_bhwc = images.astype(stage_dtype(spec, spec.resolution))
    conv1x1 = _conv1x1(spec, self.platform)
    x_bhwc = conv1x1(spec.widths[last], name="from_rgb")(x_bhwc)
    for stage in range(last, -1, -1):
      x_bhwc = x_bhwc.astype(stage_dtype(spec, 4 * 2**stage))
      x_bhwc = _blocks(spec, stage, self.platform, self.gather, x_bhwc)
      if stage:
        x_bhwc = downsample2x(x_bhwc)
        if spec.widths[stage - 1] != spec.widths[stage]:
          x_bhwc = conv1x1(
            spec.widths[stage - 1], name=f"stage{4 * 2**stage}_transition"
          )(x_bhwc)
    basis_hwc = self.param(
      "basis", scaled_normal(1.0, 16), (4, 4, spec.widths[0]), spec.dtype
    )
    # Not an einsum: for its transposes, XLA's CPU backend would recompute the
    # resampled map for every element, which costs a tenth of the step time.
    features_bc = jnp.sum(
      x_bhwc.astype(spec.dtype) * basis_hwc[None], axis=(1, 2)
    )
    if not spec.num_classes:
      return Dense(1, dtype=spec.dtype, name="logit")(features_bc)[:, 0]
    projected_bc = Dense(spec.widths[0], dtype=spec.dtype, name="logit")(
      features_bc
    )
    class_bc = Embedding(
      spec.num_classes,
      spec.widths[0],
      # The authors' gain 1 / sqrt(dim), in addition to the usual 1 /
      # sqrt(fan-in).
      scaled_normal(spec.widths[0] ** -0.5, spec.num_classes),
      spec.dtype,
      name="classes",
    )(labels)
    return jnp.sum(projected_bc * class_bc, axis=-1)


def _blocks(
  spec: R3ganSpec,
  stage: int,
  platform: str,
  gather: Gather | None,
  x_bhwc: Array,
) -> Array:
  """Applies the residual blocks of a stage; called inside a compact module."""
  for i in range(spec.blocks[stage]):
    name = f"stage{4 * 2**stage}_block{i}"
    x_bhwc = block(Block, name, spec.remat, gather)(
      spec, spec.cardinality[stage], _block_gain(spec), platform
    )(x_bhwc)
  return x_bhwc


def _codes(spec: R3ganSpec, latents_bz: Array, class_by: Array) -> list[Array]:
  """Returns the code of each stage of G, [B, n]; n = 0 if it has none."""
  later = len(spec.widths) - 1
  if spec.hierarchical:
    chunks = jnp.split(latents_bz, later + 1, axis=-1)
  else:
    chunks = [latents_bz] + [latents_bz[:, :0]] * later
  shared = class_by if spec.shared_embedding else class_by[:, :0]
  return [
    jnp.concatenate(parts, axis=-1)
    for parts in zip(chunks, [class_by] + [shared] * later, strict=True)
  ]


def _scale(spec: R3ganSpec, stage: int, code_bz: Array, x_bhwc: Array) -> Array:
  """Multiplies channels by 1 + linear(code); called inside a compact module."""
  if not code_bz.shape[-1]:
    return x_bhwc
  gain_bc = 1 + Dense(
    x_bhwc.shape[-1],
    spec.dtype,
    nn.initializers.zeros,
    name=f"stage{4 * 2**stage}_scale",
  )(code_bz)
  return x_bhwc * gain_bc[:, None, None, :].astype(x_bhwc.dtype)


def make(
  spec: R3ganSpec,
  platform: str,
  split: BatchSplit = WHOLE_BATCH,
  gather: Gather | None = None,
) -> GanModel:
  """Builds the two networks as pure functions.

  Args:
    spec: spec of the model.
    platform: platform of the devices that will run it (`cpu`, `gpu`, `tpu`).
    split: how the training batch is split; unused, because samples do not
      depend on each other.
    gather: function that gathers sharded parameters; see `models.blocks`.
  """
  del split
  return gan_model(
    Generator(spec, platform),
    Discriminator(spec, platform),
    spec,
    gather,
    g_orthogonal=is_kernel,
    d_orthogonal=is_kernel,
  )
