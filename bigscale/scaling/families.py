"""Models of one kind that differ in width, depth and resolution.

A family is a base model, of a preset say, and what is asked of its members:
resolution, depth, and a number of parameters or of FLOP an image, which the
width then comes nearest to. All else is the base's.

What a family does with a width, a resolution and a depth stands where it is
defined (`ModelBase.of_width`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from bigscale.scaling.flops import training_flops
from bigscale.scaling.network_cost import parameters
from bigscale.spec import ModelBase, RunSpec, SpecError, require

# Of any family: wider ones would hold more than 10^15 parameters.
_WIDEST = 2**24


class Sized(NamedTuple):
  """A member of a family.

  Attributes:
    model: the member.
    achieved: what it has of what was asked for.
  """

  model: ModelBase
  achieved: float


class Target(NamedTuple):
  """What a member is to have.

  Attributes:
    name: of it, for messages.
    value: asked for.
    of: what a model has.
  """

  name: str
  value: float
  of: Callable[[ModelBase], float]


def of_parameters(count: float) -> Target:
  """So many learned numbers, of G and D together."""
  return Target("parameters", count, lambda model: parameters(model).total)


def of_flops(per_image: float, recipe: RunSpec) -> Target:
  """So many FLOP for an image that D sees, in training.

  Args:
    per_image: see `TrainingFlops.per_image`.
    recipe: losses, steps and batch of the run; its model is not used.
  """

  def count(model: ModelBase) -> float:
    return training_flops(dataclasses.replace(recipe, model=model)).per_image

  return Target("FLOP an image", per_image, count)


def member(
  base: ModelBase,
  target: Target,
  *,
  resolution: int | None = None,
  depth: int | None = None,
  tolerance: float = 0.1,
) -> Sized:
  """The model of a family whose width brings it nearest to the target.

  Args:
    base: BigGAN, BigGAN-deep or R3GAN.
    target: `of_parameters(...)` or `of_flops(...)`.
    resolution: px; the base's where None.
    depth: blocks of each stage; the base's where None. BigGAN has none.
    tolerance: how far from the target it may be, as a share.

  Raises:
    SpecError: the family has no such resolution or depth, or no member within
      the tolerance; the message names the nearest.
  """
  require(
    target.value > 0,
    f"{target.name}={target.value:g} must be positive",
  )
  make = widths_of(base, resolution=resolution, depth=depth)
  width = _nearest(lambda width: target.of(make(width)), target.value)
  found = make(width)
  achieved = target.of(found)
  off = abs(achieved / target.value - 1)
  require(
    off <= tolerance,
    f"no {base.name} of {found.resolution} px comes within {tolerance:.0%} of "
    f"{target.name}={target.value:g}; the nearest has {achieved:.4g} "
    f"({_widths(found)}): ask for that, or for another resolution or depth",
  )
  return Sized(found, achieved)


def widths_of(
  base: ModelBase, *, resolution: int | None = None, depth: int | None = None
) -> Callable[[int], ModelBase]:
  """The members of a family by width, 1 the narrowest.

  Args:
    base: see `member`.
    resolution: see `member`.
    depth: see `member`.

  Raises:
    SpecError: the family has no such resolution or depth, or no widths.
  """
  require(
    depth is None or depth >= 1,
    f"depth={depth} must be 1 block a stage or more",
  )
  if resolution is None:
    resolution = base.resolution
  return base.of_width(resolution, depth)


def _nearest(size: Callable[[int], float], target: float) -> int:
  """The width at which a rising size is nearest, by ratio, to the target."""

  @functools.cache
  def distance(width: int) -> float:
    try:
      return math.log(size(width) / target)
    except SpecError:
      # Too narrow for its attention.
      return -math.inf

  low, high = 0, 1
  while distance(high) < 0 and high < _WIDEST:
    # A size grows at most with the square of the width.
    low, off = high, -distance(high)
    high = low * 2 if math.isinf(off) else math.ceil(low * math.exp(off / 2))
    high = min(max(high, low + 1), _WIDEST)
  turn = 0
  while high - low > 1:
    turn += 1
    below, above = (distance(low) if low else -math.inf), distance(high)
    middle = (low + high) // 2
    if turn % 4 and math.isfinite(below) and above > 0:
      # Nearly a power law between the two; halved now and then all the same.
      share = below / (below - above)
      middle = round(low * (high / low) ** share)
    middle = min(max(middle, low + 1), high - 1)
    if distance(middle) < 0:
      low = middle
    else:
      high = middle
  if low and abs(distance(low)) < abs(distance(high)):
    return low
  return high


def _widths(model: ModelBase) -> str:
  """The settings that say how wide a model is."""
  return ", ".join(
    f"{field.name} {getattr(model, field.name)}"
    for field in dataclasses.fields(model)
    if "width" in field.name
  )
