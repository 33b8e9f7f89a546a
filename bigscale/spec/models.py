"""Specs of the models: one dataclass each, its rules beside it."""

import dataclasses
import math
from typing import Literal

from bigscale.spec.base import require

Dtype = Literal["float32", "float64"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class R3ganSpec:
  """R3GAN (Huang et al. 2024, sec. 4). Lists run from 4x4 upwards.

  Attributes:
    resolution: side of the square images, pixels: 4 * 2^(stages - 1).
    image_channels: 1 or 3.
    num_classes: 0 trains without labels.
    latent_dim: length of z.
    widths: channels of each stage, the 4x4 stage first.
    blocks: residual blocks of each stage.
    cardinality: groups of the 3x3 convolution of each stage.
    expansion: width inside a block over width between blocks.
    class_embedding_dim: length of the class vector concatenated to z.
    bf16_stages: how many of the highest resolutions compute in bfloat16.
    grouped_conv: formulation; `auto` picks by platform (ops/grouped_conv.py).
    dtype: parameters and, outside the bfloat16 stages, activations.
  """

  name: Literal["r3gan"] = "r3gan"
  resolution: int
  image_channels: int = 3
  num_classes: int = 0
  latent_dim: int = 64
  widths: tuple[int, ...]
  blocks: tuple[int, ...]
  cardinality: tuple[int, ...]
  expansion: int = 2
  class_embedding_dim: int = 64
  bf16_stages: int = 0
  grouped_conv: Literal["auto", "native", "per_group", "patches"] = "auto"
  dtype: Dtype = "float32"

  def __post_init__(self) -> None:
    stages = len(self.widths)
    require(
      stages >= 1 and self.resolution == 4 * 2 ** (stages - 1),
      f"model.resolution={self.resolution} does not fit {stages} "
      f"model.widths; {stages} stages make {4 * 2 ** max(stages - 1, 0)} px",
    )
    for field in ("blocks", "cardinality"):
      require(
        len(getattr(self, field)) == stages,
        f"model.{field}={getattr(self, field)} must have one entry for each "
        f"of the {stages} model.widths",
      )
    for width, groups in zip(self.widths, self.cardinality, strict=True):
      require(
        groups > 0 and (width * self.expansion) % groups == 0,
        f"model.cardinality={groups} does not divide the expanded width "
        f"{width} x {self.expansion}; choose a divisor of "
        f"{width * self.expansion}",
      )
    require(
      0 <= self.bf16_stages <= stages,
      f"model.bf16_stages={self.bf16_stages} must be between 0 and {stages}",
    )
    _check_images_and_labels(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganSpec:
  """BigGAN (Brock et al. 2019, app. B).

  Attributes:
    resolution: 32, 64, 128, 256 or 512.
    image_channels: 1 or 3.
    num_classes: 0 trains without labels.
    latent_dim: length of z; with `hierarchical` it is split evenly between
      the first layer and each block.
    g_width: channel multiplier `ch` of G (96 in the paper).
    d_width: channel multiplier of D.
    shared_dim: length of the shared class embedding; 0 gives every
      conditional batch norm its own embedding.
    hierarchical: a chunk of z for every block (skip-z).
    g_attention: resolutions with self-attention in G, px.
    d_attention: the same in D.
    batch_norm_momentum: share of the old running statistics kept each step.
    batch_norm_epsilon: added to the variance.
    spectral_epsilon: guards the norms of the power iteration.
    num_singular_values: how many are tracked for every layer.
    dtype: parameters and activations.
  """

  name: Literal["biggan"] = "biggan"
  resolution: int
  image_channels: int = 3
  num_classes: int = 0
  latent_dim: int = 120
  g_width: int = 96
  d_width: int = 96
  shared_dim: int = 128
  hierarchical: bool = True
  g_attention: tuple[int, ...] = ()
  d_attention: tuple[int, ...] = ()
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-4
  spectral_epsilon: float = 1e-4
  num_singular_values: int = 1
  dtype: Dtype = "float32"

  def __post_init__(self) -> None:
    require(
      self.resolution in (32, 64, 128, 256, 512),
      f"model.resolution={self.resolution} has no BigGAN; "
      "use 32, 64, 128, 256 or 512",
    )
    blocks = 3 if self.resolution == 32 else int(math.log2(self.resolution)) - 2
    if self.hierarchical:
      require(
        self.latent_dim % (blocks + 1) == 0,
        f"model.latent_dim={self.latent_dim} does not split into "
        f"{blocks + 1} equal chunks (first layer + {blocks} blocks); use "
        f"{max(1, round(self.latent_dim / (blocks + 1))) * (blocks + 1)}",
      )
    for field in ("g_attention", "d_attention"):
      for side in getattr(self, field):
        require(
          side & (side - 1) == 0 and 8 <= side <= self.resolution,
          f"model.{field} names {side} px, which no block of a "
          f"{self.resolution} px network makes; use a power of two from 8 "
          f"to {self.resolution}",
        )
    require(
      self.num_singular_values >= 1,
      f"model.num_singular_values={self.num_singular_values} must be 1 or "
      "more: the first normalizes the layer",
    )
    _check_images_and_labels(self)


def _check_images_and_labels(model: "ModelSpec") -> None:
  require(
    model.image_channels in (1, 3),
    f"model.image_channels={model.image_channels} must be 1 or 3",
  )
  require(
    model.num_classes == 0 or model.num_classes >= 2,
    f"model.num_classes={model.num_classes} must be 0 (no labels) or 2 and "
    "more",
  )


ModelSpec = R3ganSpec | BigganSpec
