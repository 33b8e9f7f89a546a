"""StyleGAN2 without its tricks: configs B and C of R3GAN's roadmap."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigscale.spec import ModelBase, require
from bigscale.spec.model import check_at_least, check_bf16_stages

if TYPE_CHECKING:
  from bigscale.types import GanModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrippedSpec(ModelBase):
  """StyleGAN2's backbone alone (Huang et al. 2024, sec. 4, config B).

  Without mapping network, style modulation, noise, equalized learning rate
  and minibatch standard deviation. Lists run from 4x4 upwards.

  Attributes:
    resolution: side of the square images, pixels: 4 * 2^(stages - 1).
    widths: channels of each stage, the 4x4 stage first.
    class_embedding_dim: length of the class vector concatenated to z.
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
      f"model.widths; use 2 stages or more, {stages} of them make "
      f"{4 * 2 ** max(stages - 1, 0)} px",
    )
    check_bf16_stages(self, stages)

  def make_networks(self, platform: str, split: Any, gather: Any) -> "GanModel":
    """See `ModelBase`."""
    from bigscale.models.stripped_stylegan2 import networks

    return networks.make(self, gather)

  @property
  def player_widths(self) -> tuple[float, float]:
    """The widest stage's, of both."""
    return (max(self.widths),) * 2


# Config B of the paper's roadmap, whose networks C shares: the widths of
# StyleGAN2-ADA's `paper256`. 18.890 M parameters in G, 23.996 M in D.
PRESETS = {
  "B": StrippedSpec(resolution=256, widths=(512, 512, 512, 512, 256, 128, 64)),
}
