"""Converts between training steps and images shown."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

# Rounding makes 22.4 kimg 700 steps of 32 images, not 700.0000000000001.
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class ImageCount:
  """Converts steps to images and back, including runs whose batch size changed.

  Attributes:
    pieces: pairs (FIRST, IMAGES) in increasing order of FIRST: every step after
      FIRST shows IMAGES images, until the next pair applies. There is one pair
      per batch size; the first pair has FIRST = 0.
  """

  pieces: tuple[tuple[int, int], ...]

  @classmethod
  def of(cls, pieces: Iterable[Sequence[int]]) -> "ImageCount":
    """Returns the count that `to_json` serialized."""
    return cls(tuple((int(first), int(images)) for first, images in pieces))

  def to_json(self) -> list[list[int]]:
    """Returns the pieces as JSON values."""
    return [list(piece) for piece in self.pieces]

  @property
  def is_uniform(self) -> bool:
    """Whether all steps show the same number of images."""
    return len(self.pieces) == 1

  @property
  def images_per_step(self) -> int:
    """Images per step after the last change of the batch size."""
    return self.pieces[-1][1]

  def going_on(self, step: int, images_per_step: int) -> "ImageCount":
    """Returns the count of a run that continues with a batch size.

    Args:
      step: the last step before the run continues.
      images_per_step: images shown per step from then on.
    """
    pieces = [piece for piece in self.pieces if piece[0] < step]
    if not pieces or pieces[-1][1] != images_per_step:
      pieces.append((step if pieces else 0, images_per_step))
    return ImageCount(tuple(pieces))

  def steps_of(self, step: int) -> list[tuple[int, int]]:
    """Returns (STEPS, IMAGES per step) of each piece, up to a step."""
    ends = [first for first, _ in self.pieces[1:]] + [step]
    return [
      (min(end, step) - first, images)
      for (first, images), end in zip(self.pieces, ends, strict=True)
      if first < step
    ]

  def images(self, step: int) -> int:
    """Returns the number of real images shown in the first `step` steps."""
    return sum(steps * images for steps, images in self.steps_of(step))

  def kimg(self, step: int) -> float:
    """Returns `images` in thousands."""
    return self.images(step) / 1000

  def step_of(self, kimg: float) -> int:
    """Returns the first step that has shown at least `kimg` thousand images."""
    first, images = self.pieces[0]
    for begin, size in self.pieces[1:]:
      if self.images(begin) < round(kimg * 1000, _DIGITS):
        first, images = begin, size
    left = kimg * 1000 - self.images(first)
    return first + max(0, math.ceil(round(left / images, _DIGITS)))

  def every(self, kimg: float) -> int:
    """Returns the steps in `kimg` thousand images: 0 for 0, else at least 1."""
    return _rounded(kimg * 1000 / self.images_per_step) if kimg else 0

  def is_due(self, kimg: float, step: int) -> bool:
    """Returns whether an action due every `kimg` thousand images is due now.

    After a change of the batch size, actions stay aligned to multiples of
    `kimg`.

    Args:
      kimg: interval in thousand images; 0 is never.
      step: the step that has just finished.
    """
    if not kimg:
      return False
    begin, images = self.pieces[0]
    for first, size in self.pieces:
      if first < step:
        begin, images = first, size
    interval, shown = kimg * 1000, self.images(begin)
    passed = math.floor(round(shown / interval, _DIGITS))
    first = begin + _rounded(((passed + 1) * interval - shown) / images)
    return step >= first and (step - first) % _rounded(interval / images) == 0


def _rounded(steps: float) -> int:
  return max(1, round(steps))
