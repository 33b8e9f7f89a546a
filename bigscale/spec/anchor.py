"""Settings of the anchor, a fixed set of images for the monitor."""

import dataclasses
from typing import Literal

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorSpec:
  """Settings of the anchor (`bigscale.monitor.anchors`).

  At every probe, a batch of reals and a fixed grid of samples are compared with
  training images that were read at the start. Bad data are therefore noticed
  although the game stays balanced.

  Attributes:
    images: number of training images of the anchor; 0 turns it off. A source of
      fewer images uses all of them, and one of fewer than 1,024 images turns
      the comparison off.
    network: network whose features are compared besides pixels. `scores`: the
      network of a score in `evaluate.scores`, preferably the classifier.
      `none`: only pixels are compared.
  """

  images: int = 4096
  network: Literal["scores", "none"] = "scores"

  def __post_init__(self) -> None:
    require(
      self.images == 0 or 1024 <= self.images <= 1_000_000,
      f"monitor.anchor.images={self.images} must be 0, which turns the anchor "
      "off, or between 1024 and 1000000; 4096 is the default",
    )
