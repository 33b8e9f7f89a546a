"""A family of models in one file: a transformer for G and D."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bigscale.models.networks import gan_model
from bigscale.spec import ModelBase, require


class Block(nn.Module):
  """Self-attention and two dense layers, each with a residual connection."""

  heads: int

  @nn.compact
  def __call__(self, x_bnc):
    """Maps [B, N, C] to the same shape."""
    y_bnc = nn.LayerNorm()(x_bnc)
    x_bnc = x_bnc + nn.MultiHeadDotProductAttention(self.heads)(y_bnc)
    y_bnc = nn.gelu(nn.Dense(2 * x_bnc.shape[-1])(nn.LayerNorm()(x_bnc)))
    return x_bnc + nn.Dense(x_bnc.shape[-1])(y_bnc)


class Generator(nn.Module):
  """Tokens that depend on z and the class; each token becomes a patch."""

  spec: "ToySpec"

  @nn.compact
  def __call__(self, latents, labels, *, train):
    """Maps latents [B, latent_dim] and labels [B] to images [B, H, W, C]."""
    del train
    spec, side = self.spec, self.spec.resolution // self.spec.patch
    code_bc = nn.Dense(spec.width)(latents)
    if spec.num_classes:
      code_bc += nn.Embed(spec.num_classes, spec.width)(labels)
    positions_nc = self.param(
      "positions", nn.initializers.normal(1.0), (side**2, spec.width)
    )
    x_bnc = code_bc[:, None] + positions_nc[None]
    for _ in range(spec.depth):
      x_bnc = Block(spec.heads)(x_bnc)
    x_bnc = nn.Dense(spec.patch**2 * spec.image_channels)(nn.LayerNorm()(x_bnc))
    x = x_bnc.reshape(
      -1, side, side, spec.patch, spec.patch, spec.image_channels
    )
    return x.swapaxes(2, 3).reshape(
      -1, spec.resolution, spec.resolution, spec.image_channels
    )


class Discriminator(nn.Module):
  """Patches become tokens; their mean determines the logit of the class."""

  spec: "ToySpec"

  @nn.compact
  def __call__(self, images, labels):
    """Maps images [B, H, W, C] and labels [B] to logits [B]."""
    spec = self.spec
    patch = (spec.patch, spec.patch)
    x_bhwc = nn.Conv(spec.width, patch, patch)(images)
    x_bnc = x_bhwc.reshape(len(images), -1, spec.width)
    for _ in range(spec.depth):
      x_bnc = Block(spec.heads)(x_bnc)
    features_bc = jnp.mean(nn.LayerNorm()(x_bnc), axis=1)
    logits = nn.Dense(max(spec.num_classes, 1))(features_bc)
    if not spec.num_classes:
      return logits[:, 0]
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySpec(ModelBase):
  """A transformer GAN.

  Attributes:
    width: length of a token, a multiple of `heads`.
    depth: number of blocks of each network.
    heads: number of attention heads.
    patch: side of the image patch of a token, pixels.
  """

  width: int = 32
  depth: int = 1
  heads: int = 2
  patch: int = 4

  # Two-dimensional arrays that are not kernels are replicated.
  sharding_rules: ClassVar = ((r"(.*/)?(positions|bias)", ()),)

  def __post_init__(self):
    """Checks the shared settings and the family's own."""
    super().__post_init__()
    require(
      self.width % self.heads == 0,
      f"model.width={self.width} is not divisible by model.heads={self.heads}; "
      f"use {self.width // self.heads * self.heads or self.heads}",
    )

  def make_networks(self, platform, split, gather):
    """See `ModelBase`."""
    return gan_model(Generator(self), Discriminator(self), self, gather)

  def of_width(self, resolution, depth):
    """Returns models of other widths, for sweeps over size."""
    return lambda width: dataclasses.replace(
      self,
      resolution=resolution,
      depth=depth or self.depth,
      width=width * self.heads,
    )

  @property
  def player_widths(self):
    """Widths of G and D, by which learning rates are rescaled."""
    return self.width, self.width
