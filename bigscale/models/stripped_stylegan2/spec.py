"""Stripped StyleGAN2: its spec, and configs B and C of R3GAN's roadmap."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.spec import ModelBase, require
from bigscale.spec.model import check_at_least, check_bf16_stages

if TYPE_CHECKING:
  from bigscale.types import GanModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrippedSpec(ModelBase):
  """The backbone of StyleGAN2 (Huang et al. 2024, sec. 4, config B).

  It has no mapping network, style modulation, noise, equalized learning rate or
  minibatch standard deviation.

  Attributes:
    name: name of the family; always `stripped_stylegan2`.
    resolution: side of the square images, pixels: 4 * 2^(stages - 1).
    widths: number of channels of each stage, from the 4x4 stage upwards.
    class_embedding_dim: length of the class embedding that is concatenated to
      z.
  """

  title: ClassVar[str] = "Stripped StyleGAN2"
  name: Literal["stripped_stylegan2"] = "stripped_stylegan2"
  widths: tuple[int, ...]
  class_embedding_dim: int = 64

  def __post_init__(self) -> None:
    super().__post_init__()
    check_at_least(self, 1, "widths")
    check_at_least(self, 0, "class_embedding_dim")
    stages = len(self.widths)
    require(
      stages >= 2 and self.resolution == 4 * 2 ** (stages - 1),
      f"model.resolution={self.resolution} does not fit {stages} "
      f"model.widths; use at least 2 stages; {stages} stages make "
      f"{4 * 2 ** max(stages - 1, 0)} px",
    )
    check_bf16_stages(self, stages)

  def make_networks(self, platform: str, split: Any, gather: Any) -> "GanModel":
    """See `ModelBase`."""
    from bigscale.models.stripped_stylegan2 import networks

    return networks.make(self, gather)

  @property
  def player_widths(self) -> tuple[float, float]:
    """The width of the widest stage, for both G and D."""
    return (max(self.widths),) * 2


# Config B of the paper's roadmap; config C has the same networks. The widths
# are those of StyleGAN2-ADA's `paper256`: 18.890 M parameters in G, 23.996 M in
# D.
PRESETS = {
  "B": StrippedSpec(resolution=256, widths=(512, 512, 512, 512, 256, 128, 64)),
}
