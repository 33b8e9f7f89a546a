"""BigGAN-deep: its spec and its published sizes (Brock et al. 2019, app. B)."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.models.biggan.spec import (
  BigganBase,
  check_published,
  of_both_widths,
)
from bigscale.spec import ModelBase, require
from bigscale.spec.model import (
  check_at_least,
  check_attention,
  check_batch_norm,
  check_bf16_stages,
)

if TYPE_CHECKING:
  from bigscale.types import GanModel

# Ratio of a block's width to its inner width. The block's width is that of the
# input in G and of the output in D.
REDUCTION = 4

# Channel multipliers. In G: of the first map and of each stage's output. In D:
# of the stem's and each stage's output. The tables are from the authors'
# PyTorch code. D's entry for 512 px, which that code lacks, is from compare_gan
# (resnet_biggan_deep.py).
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
  """Returns the sides of the stages' maps, from 4 px to the image's side."""
  found = [4]
  while found[-1] < resolution:
    found.append(2 * found[-1])
  return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigganDeepSpec(BigganBase):
  """BigGAN-deep (Brock et al. 2019, app. B, tables 7 to 9).

  Every block receives all of z together with the shared class embedding.

  Attributes:
    name: name of the family; always `biggan_deep`.
    resolution: side of the square images, pixels: 64, 128, 256 or 512.
    latent_dim: length of z.
    g_width: channel multiplier `ch` of G, a multiple of 4 (128 in the paper).
    d_width: channel multiplier `ch` of D, a multiple of 4 (128 in the paper).
    g_depth: number of blocks per stage of G.
    d_depth: number of blocks per stage of D.
    layout: layout of G's weights. `tfhub` is that of the official weights: the
      condition is [z, y], and the last convolution has `g_width` channels, of
      which only the first `image_channels` are used. `pytorch` is that of
      BigGAN-PyTorch: the condition is [y, z], and the last convolution has
      `image_channels` channels. D is the same in both.
  """

  title: ClassVar[str] = "BigGAN-deep"
  name: Literal["biggan_deep"] = "biggan_deep"
  latent_dim: int = 128
  g_width: int = 128
  d_width: int = 128
  g_depth: int = 2
  d_depth: int = 2
  layout: Literal["tfhub", "pytorch"] = "tfhub"

  # All matrices except the embeddings have spectral norm.
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
      f"model.resolution={self.resolution} is not a resolution of BigGAN-deep; "
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
      f"model.shared_dim={self.shared_dim} must be 1 or more, because all "
      "blocks share one class embedding; the published length is 128",
    )
    for field in ("g_width", "d_width"):
      require(
        getattr(self, field) >= 4 and getattr(self, field) % 4 == 0,
        f"model.{field}={getattr(self, field)} must be a multiple of 4, the "
        "reduction of the bottleneck; the paper uses 128",
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
    """Returns models by width that keep the ratio of G's and D's widths.

    Each stage has `depth` blocks. Attention changes as in
    `BigganSpec.of_width`.
    """
    check_published(self, resolution, G_WIDTHS)
    changes = {
      "g_depth": depth or self.g_depth,
      "d_depth": depth or self.d_depth,
    }
    stages = len(G_WIDTHS[resolution])
    return of_both_widths(self, resolution, stages, changes, REDUCTION)


PRESETS = {
  str(resolution): BigganDeepSpec(
    resolution=resolution,
    num_classes=1000,
    g_attention=(64,),
    d_attention=(64,),
  )
  for resolution in (128, 256, 512)
}
