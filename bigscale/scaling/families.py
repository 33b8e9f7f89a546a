"""Scales a base model to a target number of parameters or FLOP per image.

A family consists of the models that differ from a base model, such as a preset,
only in width, depth and resolution. The caller chooses the resolution, the
depth and the target; a search finds the width that comes closest to the target.

`ModelBase.of_width` defines how each family applies a width, a resolution and
a depth.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from bigscale.scaling.flops import training_flops
from bigscale.scaling.network_cost import parameters
from bigscale.spec import ModelBase, RunSpec, SpecError, require

# Largest width tried. Wider models of any family would have more than 10^15
# parameters.
_WIDEST = 2**24


class Sized(NamedTuple):
  """A member of a family.

  Attributes:
    model: model of the chosen width.
    achieved: the model's value of the target quantity.
  """

  model: ModelBase
  achieved: float


class Target(NamedTuple):
  """A quantity that a member should match.

  Attributes:
    name: name of the quantity, for messages.
    value: requested value.
    of: function that returns a model's value.
  """

  name: str
  value: float
  of: Callable[[ModelBase], float]


def of_parameters(count: float) -> Target:
  """Returns a target number of parameters of G and D together."""
  return Target("parameters", count, lambda model: parameters(model).total)


def of_flops(per_image: float, recipe: RunSpec) -> Target:
  """Returns a target number of training FLOP per real image that D sees.

  Args:
    per_image: requested value; see `TrainingFlops.per_image`.
    recipe: spec of the run, which sets losses, steps and batch size. Its model
      is not used.
  """

  def count(model: ModelBase) -> float:
    return training_flops(dataclasses.replace(recipe, model=model)).per_image

  return Target("FLOP per image", per_image, count)


def member(
  base: ModelBase,
  target: Target,
  *,
  resolution: int | None = None,
  depth: int | None = None,
  tolerance: float = 0.1,
) -> Sized:
  """Returns the member of a family whose width comes closest to the target.

  Args:
    base: BigGAN, BigGAN-deep or R3GAN model.
    target: `of_parameters(...)` or `of_flops(...)`.
    resolution: image resolution in pixels; None keeps the base's.
    depth: blocks per stage; None keeps the base's. BigGAN does not accept it.
    tolerance: maximum relative distance from the target.

  Raises:
    SpecError: the family does not support the resolution or depth, or no
      member is within the tolerance; the message names the closest one.
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
    f"no {base.name} of {found.resolution} px is within {tolerance:.0%} of "
    f"{target.name}={target.value:g}; the nearest has {achieved:.4g} "
    f"({_widths(found)}). Request that value, or another resolution or depth",
  )
  return Sized(found, achieved)


def widths_of(
  base: ModelBase, *, resolution: int | None = None, depth: int | None = None
) -> Callable[[int], ModelBase]:
  """Returns a function from a width, 1 or more, to a member of the family.

  Args:
    base: see `member`.
    resolution: see `member`.
    depth: see `member`.

  Raises:
    SpecError: the family does not support the resolution or depth, or cannot
      vary its width.
  """
  require(
    depth is None or depth >= 1,
    f"depth={depth} must be 1 block per stage or more",
  )
  if resolution is None:
    resolution = base.resolution
  return base.of_width(resolution, depth)


def _nearest(size: Callable[[int], float], target: float) -> int:
  """Returns the width at which an increasing size is closest to the target.

  The distance is the absolute log ratio.
  """

  @functools.cache
  def distance(width: int) -> float:
    try:
      return math.log(size(width) / target)
    except SpecError:
      # The model is too narrow for its attention.
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
      # Interpolate a power law. Every fourth turn bisects instead, which bounds
      # the number of turns.
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
  """Returns the settings that define a model's width, for messages."""
  return ", ".join(
    f"{field.name} {getattr(model, field.name)}"
    for field in dataclasses.fields(model)
    if "width" in field.name
  )
