"""BigGAN-deep: its spec and its published sizes (Brock et al. 2019, app. B)."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.models.biggan.spec import check_published, of_both_widths
from bigscale.spec import ModelBase, require
from bigscale.spec.base import Update
from bigscale.spec.model import (
  check_at_least,
  check_attention,
  check_batch_norm,
  check_bf16_stages,
)

if TYPE_CHECKING:
  from bigscale.types import GanModel

# A block's inner width, as a share of its input's in G, its output's in D.
REDUCTION = 4

# Channel multipliers: of the first map and of each stage's output in G, of the
# stem's and of each stage's output in D. Tables of the authors' PyTorch code;
# 512 px of D, which is not there, of compare_gan (resnet_biggan_deep.py).
G_WIDTHS = {
  64: (16, 16, 8, 4, 2),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
  512: (16, 16, 8, 8, 4, 2, 1, 1),
}
D_WIDTHS = {
  64: (1, 2, 4, 8, 16),
  128: (1, 2, 4, 8, 16, 16),
  256: (1, 2, 4, 8, 8, 16, 16),
  512: (1, 1, 2, 4, 8, 8, 16, 16),
}


def sides(resolution: int) -> tuple[int, ...]:
  """Sides of the maps that stages make, from 4 px up to the image's."""
  found = [4]
  while found[-1] < resolution:
    found.append(2 * found[-1])
  return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganDeepSpec(ModelBase):
  """BigGAN-deep (Brock et al. 2019, app. B, tables 7 to 9).

  Every block sees the whole of z beside the shared class embedding.

  Attributes:
    resolution: 64, 128, 256 or 512.
    g_width: channel multiplier `ch` of G (128 in the paper).
    d_width: channel multiplier of D.
    shared_dim: length of the shared class embedding.
    g_depth: blocks of each stage of G.
    d_depth: blocks of each stage of D.
    g_attention: resolutions with self-attention in G, px.
    d_attention: the same in D.
    layout: `tfhub`, the official weights': condition [z, y] and a last
      convolution of `g_width` channels of which `image_channels` are kept;
      `pytorch`, BigGAN-PyTorch's: condition [y, z] and a last convolution of
      `image_channels`. D is the same in both.
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

  title: ClassVar[str] = "BigGAN-deep"
  name: Literal["biggan_deep"] = "biggan_deep"
  latent_dim: int = 128
  g_width: int = 128
  d_width: int = 128
  shared_dim: int = 128
  g_depth: int = 2
  d_depth: int = 2
  g_attention: tuple[int, ...] = ()
  d_attention: tuple[int, ...] = ()
  layout: Literal["tfhub", "pytorch"] = "tfhub"
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-4
  batch_norm_group_size: int = 0
  batch_norm_update: Update = "forward"
  spectral_epsilon: float = 1e-4
  spectral_update: Update = "forward"

  # Of all matrices but the embeddings.
  g_spectral: ClassVar[bool] = True
  formats: ClassVar[dict[str, str]] = {
    "biggan-pytorch": "bigscale.interop.biggan_deep_pytorch",
    "biggan-tfhub": "bigscale.interop.biggan_tfhub",
    "biggan-hf": "bigscale.interop.biggan_hf",
  }

  def __post_init__(self) -> None:
    super().__post_init__()
    require(
      self.resolution in G_WIDTHS,
      f"model.resolution={self.resolution} has no BigGAN-deep; "
      f"use one of {', '.join(map(str, G_WIDTHS))}",
    )
    _, *above = sides(self.resolution)
    *below, _ = sides(self.resolution)
    g_maps = zip(above, G_WIDTHS[self.resolution][1:], strict=True)
    d_maps = zip(reversed(below), D_WIDTHS[self.resolution][1:], strict=True)
    check_attention(
      self,
      [(side, self.g_width * width) for side, width in g_maps],
      [(side, self.d_width * width) for side, width in d_maps],
    )
    require(
      self.num_classes == 0 or self.shared_dim >= 1,
      f"model.shared_dim={self.shared_dim} must be 1 or more, for all blocks "
      "share one class embedding; the published length is 128",
    )
    for field in ("g_width", "d_width"):
      require(
        getattr(self, field) >= 4 and getattr(self, field) % 4 == 0,
        f"model.{field}={getattr(self, field)} must be a multiple of 4, the "
        "bottleneck's reduction; the paper's is 128",
      )
    for field in ("g_depth", "d_depth"):
      require(
        getattr(self, field) >= 1,
        f"model.{field}={getattr(self, field)} must be 1 or more; the "
        "published depth is 2",
      )
    check_at_least(self, 0, "shared_dim")
    check_batch_norm(self)
    check_bf16_stages(self, len(G_WIDTHS[self.resolution]))

  def make_networks(self, platform: str, split: Any, gather: Any) -> "GanModel":
    """See `ModelBase`."""
    from bigscale.models.biggan_deep import networks

    return networks.make(self, platform, split, gather)

  def of_width(
    self, resolution: int, depth: int | None
  ) -> Callable[[int], ModelBase]:
    """As BigGAN's, with `depth` blocks a stage."""
    check_published(self, resolution, G_WIDTHS)
    changes = {
      "g_depth": depth or self.g_depth,
      "d_depth": depth or self.d_depth,
    }
    stages = len(G_WIDTHS[resolution])
    return of_both_widths(self, resolution, stages, changes, REDUCTION)

  @property
  def player_widths(self) -> tuple[float, float]:
    """The channel multipliers."""
    return self.g_width, self.d_width


PRESETS = {
  str(resolution): BigganDeepSpec(
    resolution=resolution,
    num_classes=1000,
    g_attention=(64,),
    d_attention=(64,),
  )
  for resolution in (128, 256, 512)
}
