"""R3GAN: its spec and its published sizes (Huang et al. 2024)."""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.spec import ModelBase, require
from bigscale.spec.model import (
  check_at_least,
  check_bf16_stages,
  check_chunks,
  chunked_latents,
)

if TYPE_CHECKING:
  from bigscale.types import GanModel

GroupedConv = Literal[
  "auto",
  "native",
  "merged_128",
  "merged_256",
  "per_group",
  "split_32",
  "split_64",
  "dense",
  "patches",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class R3ganSpec(ModelBase):
  """R3GAN (Huang et al. 2024, sec. 4).

  Attributes:
    name: name of the family; always `r3gan`.
    resolution: side of the square images, pixels: 4 * 2^(stages - 1).
    widths: number of channels of each stage, from the 4x4 stage upwards.
    blocks: number of residual blocks of each stage, from the 4x4 stage upwards.
    cardinality: number of groups of the 3x3 convolution of each stage, from the
      4x4 stage upwards.
    expansion: ratio of the width inside a block to the width between blocks. 2
      is the inverted bottleneck of the paper's config E; 0.25 is the ordinary
      bottleneck of config D.
    class_embedding_dim: length of the class embedding that is concatenated to
      z.
    hierarchical: whether each stage of G receives its own chunk of z, which
      scales its channels (BigGAN's skip-z; not in the paper).
    shared_embedding: whether every stage of G receives the class embedding, not
      only the first (not in the paper).
    grouped_conv: formulation of grouped convolutions (ops/grouped_conv.py).
      `auto` chooses by platform, map size and group width.
  """

  title: ClassVar[str] = "R3GAN"
  name: Literal["r3gan"] = "r3gan"
  widths: tuple[int, ...]
  blocks: tuple[int, ...]
  cardinality: tuple[int, ...]
  expansion: float = 2.0
  class_embedding_dim: int = 64
  hierarchical: bool = False
  shared_embedding: bool = False
  grouped_conv: GroupedConv = "auto"

  formats: ClassVar[dict[str, str]] = {"r3gan": "bigscale.interop.r3gan"}

  def __post_init__(self) -> None:
    super().__post_init__()
    check_at_least(self, 1, "widths", "blocks")
    check_at_least(self, 0, "class_embedding_dim")
    require(
      self.expansion > 0,
      f"model.expansion={self.expansion} must be positive",
    )
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
      inner = width * self.expansion
      require(
        inner >= 1 and inner == round(inner),
        f"model.expansion={self.expansion} times the width {width} is {inner} "
        "channels; the product must be a whole number",
      )
      require(
        groups > 0 and round(inner) % groups == 0,
        f"model.cardinality={groups} does not divide the expanded width "
        f"{width} x {self.expansion:g}; choose a divisor of {round(inner)}",
      )
    check_bf16_stages(self, stages)
    if self.hierarchical:
      check_chunks(self, stages, f"one for each of {stages} stages")
    require(
      self.num_classes > 0 or not self.shared_embedding,
      "model.shared_embedding=True needs labels, but model.num_classes is 0; "
      "set it to the number of classes, or set model.shared_embedding to False",
    )

  def inner_width(self, stage: int) -> int:
    """Returns the number of channels inside the blocks of a stage."""
    return round(self.widths[stage] * self.expansion)

  def make_networks(self, platform: str, split: Any, gather: Any) -> "GanModel":
    """See `ModelBase`."""
    from bigscale.models.r3gan import networks

    return networks.make(self, platform, split, gather)

  def of_width(
    self, resolution: int, depth: int | None
  ) -> Callable[[int], ModelBase]:
    """Returns models by width that keep the ratios between stage widths.

    Additional stages halve the width at each doubling of the resolution, as the
    published FFHQ models do from 64 px on. Groups keep their width, so a wider
    model has more groups; a dense 3x3 convolution stays dense. Chunks of z keep
    their length.
    """
    stages = int(math.log2(max(resolution, 4))) - 1
    require(
      resolution == 4 * 2 ** (stages - 1),
      f"resolution={resolution} is not a resolution of R3GAN; use a power of 2 "
      f"that is at least 4 px, for example {4 * 2 ** (stages - 1)}",
    )
    widest, known = max(self.widths), len(self.widths)
    shares, group_widths = [], []
    for stage in range(stages):
      nearest = min(stage, known - 1)
      beyond = Fraction(1, 2 ** (stage - nearest))
      shares.append(Fraction(self.widths[nearest], widest) * beyond)
      groups = self.cardinality[nearest]
      group_width = self.inner_width(nearest) // groups
      group_widths.append(group_width if groups > 1 else 0)
    # All stages consist of whole groups if the widest width is a multiple of
    # this.
    unit = math.lcm(
      *(
        (
          Fraction(group_width or 1) / share / Fraction(self.expansion)
        ).numerator
        for share, group_width in zip(shares, group_widths, strict=True)
      ),
      *(share.denominator for share in shares),
    )
    changes = {
      "resolution": resolution,
      "blocks": tuple(
        depth or self.blocks[min(stage, known - 1)] for stage in range(stages)
      ),
      "bf16_stages": min(self.bf16_stages, stages),
      "latent_dim": chunked_latents(self, known, stages),
    }

    def make(width: int) -> R3ganSpec:
      widths = tuple(int(width * unit * share) for share in shares)
      inner = (round(w * self.expansion) for w in widths)
      cardinality = tuple(
        n // group_width if group_width else 1
        for n, group_width in zip(inner, group_widths, strict=True)
      )
      return dataclasses.replace(
        self, widths=widths, cardinality=cardinality, **changes
      )

    return make

  @property
  def player_widths(self) -> tuple[float, float]:
    """The width of the widest stage, for both G and D."""
    return (max(self.widths),) * 2


def _published(
  widths: tuple[int, ...],
  cardinality: tuple[int, ...],
  *,
  expansion: float = 2.0,
  num_classes: int = 0,
  bf16_stages: int,
) -> R3ganSpec:
  stages = len(widths)
  return R3ganSpec(
    resolution=4 * 2 ** (stages - 1),
    num_classes=num_classes,
    widths=widths,
    blocks=(2,) * stages,
    cardinality=cardinality,
    expansion=expansion,
    bf16_stages=bf16_stages,
  )


_FFHQ256 = _published(
  (768, 768, 768, 768, 384, 192, 96),
  (96, 96, 96, 96, 48, 24, 12),
  bf16_stages=4,
)

# Tables of the authors' train.py. In all of them, D's class embedding is as
# long as the 4x4 stage is wide.
PRESETS = {
  "cifar10": _published((768,) * 4, (96,) * 4, num_classes=10, bf16_stages=3),
  "ffhq64": _published((768,) * 4 + (384,), (96,) * 4 + (48,), bf16_stages=4),
  "ffhq256": _FFHQ256,
  "imagenet32": _published(
    (1536,) * 4, (96,) * 4, num_classes=1000, bf16_stages=3
  ),
  "imagenet64": _published(
    (1536,) * 5, (96,) * 5, num_classes=1000, bf16_stages=4
  ),
  # Not in the authors' code. According to their appendix D, this is the
  # CIFAR-10 model without classes. Digits are padded from 28 px to 32 px.
  "stacked_mnist": _published((768,) * 4, (96,) * 4, bf16_stages=3),
  # The last two configs of the paper's roadmap on FFHQ-256. In config D,
  # networks are ordinary bottleneck ResNets, three times as wide as StyleGAN2
  # outside the blocks and 0.75 times as wide inside.
  "D": _published(
    (1536, 1536, 1536, 1536, 768, 384, 192),
    (1,) * 7,
    expansion=0.25,
    bf16_stages=4,
  ),
  "E": _FFHQ256,
}
