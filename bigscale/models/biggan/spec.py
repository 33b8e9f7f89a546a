"""BigGAN: its spec and its published sizes (Brock et al. 2019, app. B)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.spec import ModelBase, require
from bigscale.spec.base import Update
from bigscale.spec.model import (
  check_at_least,
  check_attention,
  check_batch_norm,
  check_bf16_stages,
  check_chunks,
  chunked_latents,
)

if TYPE_CHECKING:
  from bigscale.types import GanModel

# Channel multipliers. In G: of the first map and of each block's output. In D:
# of each block's output. The tables are from the authors' PyTorch code. D's
# entry for 512 px, which that code lacks, is from compare_gan
# (resnet_biggan.py). The 8 and 16 px entries are truncations of the 32 px one,
# not published models; they allow experiments on a CPU.
G_WIDTHS = {
  8: (4, 4),
  16: (4, 4, 4),
  32: (4, 4, 4, 4),
  64: (16, 16, 8, 4, 2),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
  512: (16, 16, 8, 8, 4, 2, 1, 1),
}
D_WIDTHS = {
  8: (4, 4),
  16: (4, 4, 4),
  32: (4, 4, 4, 4),
  64: (1, 2, 4, 8, 16),
  128: (1, 2, 4, 8, 16, 16),
  256: (1, 2, 4, 8, 8, 16, 16),
  512: (1, 1, 2, 4, 8, 8, 16, 16),
}


def g_sides(resolution: int) -> tuple[int, ...]:
  """Returns the side of each G block's output, px."""
  blocks = len(G_WIDTHS[resolution]) - 1
  return tuple(4 * 2 ** (i + 1) for i in range(blocks))


def d_smallest_side(resolution: int) -> int:
  """Returns the side of D's smallest map, px."""
  return {8: 4, 16: 8, 32: 8}.get(resolution, 4)


def d_sides(resolution: int) -> tuple[int, ...]:
  """Returns the side by which `d_attention` refers to each block of D, px.

  It is the side of the block's output, except at 32 px, where the authors'
  table uses 16 for all four blocks although the last three output 8 px.
  """
  blocks = len(D_WIDTHS[resolution])
  if resolution == 32:
    return (16,) * blocks
  smallest = d_smallest_side(resolution)
  return tuple(max(smallest, resolution // 2 ** (i + 1)) for i in range(blocks))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganBase(ModelBase):
  """The settings that BigGAN and BigGAN-deep have in common.

  Attributes:
    g_width: channel multiplier `ch` of G.
    d_width: channel multiplier `ch` of D.
    shared_dim: length of the shared class embedding.
    g_attention: sides of the maps of G that self-attention follows, px.
    d_attention: sides of the maps of D that self-attention follows, px.
    batch_norm_momentum: decay rate of the running statistics per update, in [0,
      1).
    batch_norm_epsilon: constant added to the variance in batch norm.
    batch_norm_group_size: number of samples that share statistics in training.
      A group is a fraction of one device's samples, all of them, or the samples
      of several devices. 0 uses the whole batch.
    batch_norm_update: when the running statistics are updated. `forward`
      updates them in every training forward pass, as in the authors' code.
      `step` updates them once per optimizer step, with the mean over its
      microbatches. Without gradient accumulation both are the same.
    spectral_epsilon: constant that prevents division by zero in the power
      iteration.
    spectral_update: when the power iteration is updated. `forward` updates it
      in every training forward pass, as in the authors' code. `step` updates it
      once per network and optimizer step, which is cheaper.
    bf16_stages: number of stages, counted from the highest resolution, that
      compute in bfloat16. Statistics, conditions, images and logits stay in
      `dtype`.
  """

  g_width: int
  d_width: int
  shared_dim: int = 128
  g_attention: tuple[int, ...] = ()
  d_attention: tuple[int, ...] = ()
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-4
  batch_norm_group_size: int = 0
  batch_norm_update: Update = "forward"
  spectral_epsilon: float = 1e-4
  spectral_update: Update = "forward"

  @property
  def player_widths(self) -> tuple[float, float]:
    """The channel multipliers of G and D."""
    return self.g_width, self.d_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganSpec(BigganBase):
  """BigGAN (Brock et al. 2019, app. B).

  Attributes:
    name: name of the family; always `biggan`.
    resolution: side of the square images, pixels: 8, 16, 32, 64, 128, 256 or
      512.
    latent_dim: length of z. With `hierarchical`, z is split into equal chunks,
      one for the first layer and one for each block.
    g_width: channel multiplier `ch` of G (96 in the paper).
    d_width: channel multiplier `ch` of D (96 in the paper).
    shared_dim: length of the shared class embedding; 0 uses a separate
      embedding in every conditional batch norm.
    hierarchical: whether each block of G receives its own chunk of z (skip-z).
    g_spectral: whether G has spectral norm as well as D (SN-GAN: False).
    d_wide: whether the inner width of a D block is its output width. False uses
      its input width, as in SN-GAN.
  """

  title: ClassVar[str] = "BigGAN"
  name: Literal["biggan"] = "biggan"
  latent_dim: int = 120
  g_width: int = 96
  d_width: int = 96
  hierarchical: bool = True
  g_spectral: bool = True
  d_wide: bool = True

  formats: ClassVar[dict[str, str]] = {
    "biggan-pytorch": "bigscale.interop.biggan_pytorch",
    "biggan-tfhub": "bigscale.interop.biggan_tfhub",
  }

  def __post_init__(self) -> None:
    super().__post_init__()
    require(
      self.resolution in G_WIDTHS,
      f"model.resolution={self.resolution} is not a resolution of BigGAN; "
      "use 8, 16, 32, 64, 128, 256 or 512",
    )
    blocks = len(G_WIDTHS[self.resolution]) - 1
    if self.hierarchical:
      check_chunks(self, blocks + 1, f"first layer + {blocks} blocks")
    side = self.resolution
    g_maps = zip(g_sides(side), G_WIDTHS[side][1:], strict=True)
    d_maps = zip(d_sides(side), D_WIDTHS[side], strict=True)
    check_attention(
      self,
      [(side, self.g_width * width) for side, width in g_maps],
      [(side, self.d_width * width) for side, width in d_maps],
    )
    for field in ("g_width", "d_width"):
      require(
        getattr(self, field) >= 1,
        f"model.{field}={getattr(self, field)} must be 1 or more; the paper "
        "uses 96",
      )
    check_at_least(self, 0, "shared_dim")
    check_batch_norm(self)
    check_bf16_stages(self, len(G_WIDTHS[self.resolution]))

  def make_networks(self, platform: str, split: Any, gather: Any) -> "GanModel":
    """See `ModelBase`."""
    from bigscale.models.biggan import networks

    return networks.make(self, platform, split, gather)

  def of_width(
    self, resolution: int, depth: int | None
  ) -> Callable[[int], ModelBase]:
    """Returns models by width that keep the ratio of G's and D's widths.

    The published tables fix the depth of each resolution. Chunks of z keep
    their length. If the resolution changes, attention keeps this model's sides,
    up to half the image's side; models of at most 32 px have no attention.
    """
    check_published(self, resolution, G_WIDTHS)
    require(
      depth is None,
      f"depth={depth} cannot be set, because BigGAN's tables fix the depth of "
      "each resolution; use biggan_deep, or do not set the depth",
    )
    stages, before = len(G_WIDTHS[resolution]), len(G_WIDTHS[self.resolution])
    changes = {"latent_dim": chunked_latents(self, before, stages)}
    return of_both_widths(self, resolution, stages, changes)


def check_published(
  base: ModelBase, resolution: int, widths: Mapping[int, Any]
) -> None:
  """Raises `SpecError` unless the tables contain a resolution."""
  require(
    resolution in widths,
    f"resolution={resolution} is not a resolution of {base.name}; use one of "
    f"{', '.join(map(str, widths))}",
  )


def of_both_widths(
  base: Any,
  resolution: int,
  stages: int,
  changes: Mapping[str, Any],
  reduction: int = 1,
) -> Callable[[int], ModelBase]:
  """Returns a function from a width index to a model with the same width ratio.

  Args:
    base: a BigGAN or BigGAN-deep.
    resolution: resolution of the models, pixels.
    stages: number of stages at this resolution.
    changes: other settings to change.
    reduction: reduction factor of the bottleneck, which must divide both
      widths.
  """
  ratio = Fraction(base.d_width, base.g_width)
  # The smallest g_width for which both widths are multiples of the reduction.
  unit = math.lcm(ratio.denominator, reduction)
  unit = math.lcm(unit, (Fraction(reduction) / ratio).numerator)
  changes = {
    **changes,
    "resolution": resolution,
    "bf16_stages": min(base.bf16_stages, stages),
  }
  if resolution != base.resolution:
    for field in ("g_attention", "d_attention"):
      at_most = resolution // 2
      sides = {min(side, at_most) for side in getattr(base, field)}
      changes[field] = () if resolution <= 32 else tuple(sorted(sides))

  def make(width: int) -> ModelBase:
    g_width = width * unit
    d_width = int(g_width * ratio)
    return dataclasses.replace(
      base, g_width=g_width, d_width=d_width, **changes
    )

  return make


def _published(
  resolution: int, latent_dim: int, g_attention: int
) -> BigganSpec:
  return BigganSpec(
    resolution=resolution,
    num_classes=1000,
    latent_dim=latent_dim,
    g_attention=(g_attention,),
    d_attention=(64,),
  )


# Latents and attention follow the official weights (TF-Hub). The 32 and 64 px
# models were not published there and follow the authors' PyTorch code.
PRESETS = {
  "32": BigganSpec(
    resolution=32, num_classes=10, latent_dim=80, g_width=64, d_width=64
  ),
  "64": BigganSpec(
    resolution=64,
    num_classes=1000,
    latent_dim=120,
    g_width=64,
    d_width=64,
    g_attention=(32,),
    d_attention=(32,),
  ),
  "128": _published(128, 120, 64),
  "256": _published(256, 140, 128),
  "512": _published(512, 128, 64),
  # The latents that compare_gan uses.
  "512_z160": _published(512, 160, 64),
  # SN-GAN with projection, the predecessor of BigGAN (Miyato et al. 2018;
  # Miyato and Koyama 2018). Its tables are from the authors' Chainer code,
  # which uses an epsilon of 2e-5 in batch norm and 1e-12 in the power
  # iteration.
  "sngan_128": BigganSpec(
    resolution=128,
    num_classes=1000,
    latent_dim=128,
    g_width=64,
    d_width=64,
    shared_dim=0,
    hierarchical=False,
    g_spectral=False,
    d_wide=False,
    batch_norm_epsilon=2e-5,
    spectral_epsilon=1e-12,
  ),
}
