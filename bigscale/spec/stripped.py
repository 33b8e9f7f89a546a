"""StyleGAN2 without its tricks: configs B and C of R3GAN's roadmap."""

import dataclasses
from typing import Literal

from bigscale.spec.base import (
  Dtype,
  Precision,
  check_bf16_stages,
  check_model,
  require,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrippedSpec:
  """StyleGAN2's backbone alone (Huang et al. 2024, sec. 4, config B).

  Without mapping network, style modulation, noise, equalized learning rate
  and minibatch standard deviation. Lists run from 4x4 upwards.

  Attributes:
    resolution: side of the square images, pixels: 4 * 2^(stages - 1).
    image_channels: 1 or 3.
    num_classes: 0 trains without labels.
    latent_dim: length of z.
    widths: channels of each stage, the 4x4 stage first.
    class_embedding_dim: length of the class vector concatenated to z.
    num_singular_values: how many are tracked for every layer.
    spectra_interval: steps between updates of the tracked values; 0 never.
    bf16_stages: how many of the highest resolutions compute in bfloat16.
    remat: the backward pass computes each block again instead of keeping what
      is inside.
    dtype: parameters and, outside the bfloat16 stages, activations.
    precision: of the networks' products of float32 arrays on TPUs and GPUs,
      which are free to round them (`bigscale.ops.precision`): `highest` not at
      all, as the authors have it; `high` to 16 bits (TPU) in half the time;
      `default` to 8.
  """

  name: Literal["stripped_stylegan2"] = "stripped_stylegan2"
  resolution: int
  image_channels: int = 3
  num_classes: int = 0
  latent_dim: int = 64
  widths: tuple[int, ...]
  class_embedding_dim: int = 64
  num_singular_values: int = 3
  spectra_interval: int = 16
  bf16_stages: int = 0
  remat: bool = False
  dtype: Dtype = "float32"
  precision: Precision = "highest"

  def __post_init__(self) -> None:
    stages = len(self.widths)
    require(
      stages >= 2 and self.resolution == 4 * 2 ** (stages - 1),
      f"model.resolution={self.resolution} does not fit {stages} "
      f"model.widths; use 2 stages or more, {stages} of them make "
      f"{4 * 2 ** max(stages - 1, 0)} px",
    )
    check_bf16_stages(self, stages)
    check_model(self)


# Config B of the paper's roadmap, whose networks C shares: the widths of
# StyleGAN2-ADA's `paper256`. 18.890 M parameters in G, 23.996 M in D.
PRESETS = {
  "B": StrippedSpec(resolution=256, widths=(512, 512, 512, 512, 256, 128, 64)),
}
