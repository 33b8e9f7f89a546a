"""How many images a run has shown after each of its steps."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

# 22.4 kimg are 700 steps of 32, not 700.0000000000001.
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class ImageCount:
  """Turns steps into images and back, also where the batch size has changed.

  Attributes:
    pieces: (FIRST, IMAGES) each, in order: the steps after FIRST show so many
      images. One for every batch size that the run has had; the first begins
      at step 0, and the last one goes on for ever.
  """

  pieces: tuple[tuple[int, int], ...]

  @classmethod
  def of(cls, pieces: Iterable[Sequence[int]]) -> "ImageCount":
    """Returns the count that `to_json` wrote."""
    return cls(tuple((int(first), int(images)) for first, images in pieces))

  def to_json(self) -> list[list[int]]:
    """The pieces as plain JSON."""
    return [list(piece) for piece in self.pieces]

  @property
  def is_uniform(self) -> bool:
    """Whether all steps show as many images."""
    return len(self.pieces) == 1

  @property
  def images_per_step(self) -> int:
    """Images shown in each step from now on."""
    return self.pieces[-1][1]

  def going_on(self, step: int, images_per_step: int) -> "ImageCount":
    """The count of a run that goes on from a step, with so many images each."""
    pieces = [piece for piece in self.pieces if piece[0] < step]
    if not pieces or pieces[-1][1] != images_per_step:
      pieces.append((step if pieces else 0, images_per_step))
    return ImageCount(tuple(pieces))

  def steps_of(self, step: int) -> list[tuple[int, int]]:
    """Returns (STEPS, IMAGES a step) of each piece up to a step."""
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
    """The first step after which at least `kimg` thousand images are shown."""
    first, images = self.pieces[0]
    for begin, size in self.pieces[1:]:
      if self.images(begin) < round(kimg * 1000, _DIGITS):
        first, images = begin, size
    left = kimg * 1000 - self.images(first)
    return first + max(0, math.ceil(round(left / images, _DIGITS)))

  def every(self, kimg: float) -> int:
    """Steps in `kimg` thousand images, at least 1; 0 stays 0 (never)."""
    return _rounded(kimg * 1000 / self.images_per_step) if kimg else 0

  def is_due(self, kimg: float, step: int) -> bool:
    """Whether what is done every `kimg` thousand images follows a step.

    From where the batch size changed on, multiples of `kimg` are kept to.
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
