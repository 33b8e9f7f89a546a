"""R3GAN: its spec and its published sizes (Huang et al. 2024)."""

import dataclasses
from typing import Literal

from bigscale.spec.base import Dtype, check_chunks, check_model, require


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
    expansion: width inside a block over width between blocks: 2 is the
      inverted bottleneck of the paper's config E, 0.25 the plain one of D.
    class_embedding_dim: length of the class vector concatenated to z.
    hierarchical: a chunk of z for every stage (not in the paper).
    shared_embedding: every stage of G sees the class embedding, not the first
      alone (not in the paper).
    bf16_stages: how many of the highest resolutions compute in bfloat16.
    grouped_conv: formulation; `auto` picks by platform (ops/grouped_conv.py).
    num_singular_values: how many are tracked for every layer.
    spectra_interval: steps between updates of the tracked values; 0 never.
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
  expansion: float = 2.0
  class_embedding_dim: int = 64
  hierarchical: bool = False
  shared_embedding: bool = False
  bf16_stages: int = 0
  grouped_conv: Literal["auto", "native", "per_group", "patches"] = "auto"
  num_singular_values: int = 3
  spectra_interval: int = 16
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
      inner = width * self.expansion
      require(
        inner >= 1 and inner == round(inner),
        f"model.expansion={self.expansion} makes {inner} channels of a stage "
        f"of {width}; their product must be a whole number",
      )
      require(
        groups > 0 and round(inner) % groups == 0,
        f"model.cardinality={groups} does not divide the expanded width "
        f"{width} x {self.expansion:g}; choose a divisor of {round(inner)}",
      )
    require(
      0 <= self.bf16_stages <= stages,
      f"model.bf16_stages={self.bf16_stages} must be between 0 and {stages}",
    )
    if self.hierarchical:
      check_chunks(self, stages, f"one for each of {stages} stages")
    require(
      self.num_classes > 0 or not self.shared_embedding,
      "model.shared_embedding=True needs labels, and model.num_classes is 0; "
      "set it to the number of classes, or leave the embedding out",
    )
    check_model(self)

  def inner_width(self, stage: int) -> int:
    """Channels inside the blocks of a stage."""
    return round(self.widths[stage] * self.expansion)
