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

# Channel multipliers: of the first map and of each block's output in G, and
# of each block's output in D. Tables of the authors' PyTorch code; 512 px of
# D, which is not there, of compare_gan (resnet_biggan.py). 8 and 16 px are
# 32 px cut short, and nobody's: for experiments that a CPU can make.
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
  """Side of the map that each block of G makes, px."""
  blocks = len(G_WIDTHS[resolution]) - 1
  return tuple(4 * 2 ** (i + 1) for i in range(blocks))


def d_smallest_side(resolution: int) -> int:
  """Of D's maps, px."""
  return {8: 4, 16: 8, 32: 8}.get(resolution, 4)


def d_sides(resolution: int) -> tuple[int, ...]:
  """The side by which attention is asked for after each block of D, px.

  That of the block's output, but for 32 px, where the authors' table says 16
  for all four blocks, though the last three make 8 px.
  """
  blocks = len(D_WIDTHS[resolution])
  if resolution == 32:
    return (16,) * blocks
  smallest = d_smallest_side(resolution)
  return tuple(max(smallest, resolution // 2 ** (i + 1)) for i in range(blocks))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganSpec(ModelBase):
  """BigGAN (Brock et al. 2019, app. B).

  Attributes:
    resolution: 8, 16, 32, 64, 128, 256 or 512.
    latent_dim: length of z; with `hierarchical` it is split evenly between
      the first layer and each block.
    g_width: channel multiplier `ch` of G (96 in the paper).
    d_width: channel multiplier of D.
    shared_dim: length of the shared class embedding; 0 gives every
      conditional batch norm its own embedding.
    hierarchical: a chunk of z for every block (skip-z).
    g_attention: resolutions with self-attention in G, px.
    d_attention: the same in D.
    g_spectral: spectral norm in G, too (SN-GAN has it in D alone).
    d_wide: the inner width of a D block is its output's, not its input's
      (SN-GAN: False).
    batch_norm_momentum: share of the old running statistics kept each step.
    batch_norm_epsilon: added to the variance.
    batch_norm_group_size: samples that share statistics in training, a
      device's or some devices'; 0 is the whole batch.
    batch_norm_update: running statistics move in every forward pass in
      training (`forward`, the authors' code), or once per optimizer step, by
      the mean over its microbatches (`step`); one and the same without
      gradient accumulation.
    spectral_epsilon: guards the norms of the power iteration.
    spectral_update: the power iteration moves in every forward pass in
      training (`forward`, the authors' code), or once per network and
      optimizer step (`step`), which is cheaper.
    bf16_stages: how many of the highest resolutions compute in bfloat16.
      Statistics, conditions, the image and the logits do not.
  """

  title: ClassVar[str] = "BigGAN"
  name: Literal["biggan"] = "biggan"
  latent_dim: int = 120
  g_width: int = 96
  d_width: int = 96
  shared_dim: int = 128
  hierarchical: bool = True
  g_attention: tuple[int, ...] = ()
  d_attention: tuple[int, ...] = ()
  g_spectral: bool = True
  d_wide: bool = True
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-4
  batch_norm_group_size: int = 0
  batch_norm_update: Update = "forward"
  spectral_epsilon: float = 1e-4
  spectral_update: Update = "forward"

  formats: ClassVar[dict[str, str]] = {
    "biggan-pytorch": "bigscale.interop.biggan_pytorch",
    "biggan-tfhub": "bigscale.interop.biggan_tfhub",
  }

  def __post_init__(self) -> None:
    super().__post_init__()
    require(
      self.resolution in G_WIDTHS,
      f"model.resolution={self.resolution} has no BigGAN; "
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
        f"model.{field}={getattr(self, field)} must be 1 or more; the paper's "
        "is 96",
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
    """G's and D's widths keep their ratio, chunks of z their length.

    The published tables give each resolution its depth. Attention stays at
    this model's sides, at most half the image's, and away from 32 px.
    """
    check_published(self, resolution, G_WIDTHS)
    require(
      depth is None,
      f"depth={depth}: BigGAN's tables fix the depth of each resolution; start "
      "from a biggan_deep, or leave the depth out",
    )
    stages, before = len(G_WIDTHS[resolution]), len(G_WIDTHS[self.resolution])
    changes = {"latent_dim": chunked_latents(self, before, stages)}
    return of_both_widths(self, resolution, stages, changes)

  @property
  def player_widths(self) -> tuple[float, float]:
    """The channel multipliers."""
    return self.g_width, self.d_width


def check_published(
  base: ModelBase, resolution: int, widths: Mapping[int, Any]
) -> None:
  """Raises `SpecError` unless there is a table for a resolution."""
  require(
    resolution in widths,
    f"resolution={resolution} has no {base.name}; use one of "
    f"{', '.join(map(str, widths))}",
  )


def of_both_widths(
  base: Any,
  resolution: int,
  stages: int,
  changes: Mapping[str, Any],
  reduction: int = 1,
) -> Callable[[int], ModelBase]:
  """Returns the BigGANs by width whose two widths keep their ratio.

  Args:
    base: BigGAN or BigGAN-deep.
    resolution: of the models, pixels.
    stages: of that resolution.
    changes: of the other settings.
    reduction: of a bottleneck, which divides both widths.
  """
  ratio = Fraction(base.d_width, base.g_width)
  # The least g_width of which both are whole multiples of the reduction.
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


# Latents and attention of the official weights (TF-Hub); 32 and 64 px were
# not published and follow the authors' PyTorch code.
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
  # compare_gan's choice.
  "512_z160": _published(512, 160, 64),
  # SN-GAN with projection (Miyato et al. 2018; Miyato and Koyama 2018), which
  # BigGAN grew out of: tables of the authors' Chainer code, whose batch norm
  # adds 2e-5 and whose power iteration 1e-12.
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
