"""Models of one kind that differ in width, depth and resolution.

A family is a base model, of a preset say, and what is asked of its members:
resolution, depth, and a number of parameters or of FLOP an image, which the
width then comes nearest to. All else is the base's.

- R3GAN: stages keep the base's widths relative to each other; stages that the
  base does not have halve the width at each doubling, as the published FFHQ
  models do from 64 px on. Groups keep their width, so that there are more of
  them in a wider model; a dense 3x3 stays dense.
- BigGAN: `g_width` and `d_width` keep their ratio. The published tables give
  each resolution its depth. Chunks of z keep their length. Attention stays at
  the base's sides, at most half the image's, and away from 32 px.
- BigGAN-deep: the same, and `depth` blocks a stage.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from bigscale.scaling.flops import training_flops
from bigscale.scaling.networks import parameters
from bigscale.spec import (
  BigganDeepSpec,
  BigganSpec,
  ModelSpec,
  R3ganSpec,
  RunSpec,
  SpecError,
  biggan,
  biggan_deep,
  require,
)

# Of any family: wider ones would hold more than 10^15 parameters.
_WIDEST = 2**24


class Sized(NamedTuple):
  """A member of a family.

  Attributes:
    model: the member.
    achieved: what it has of what was asked for.
  """

  model: ModelSpec
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
  of: Callable[[ModelSpec], float]


def of_parameters(count: float) -> Target:
  """So many learned numbers, of G and D together."""
  return Target("parameters", count, lambda model: parameters(model).total)


def of_flops(per_image: float, recipe: RunSpec) -> Target:
  """So many FLOP for an image that D sees, in training.

  Args:
    per_image: see `TrainingFlops.per_image`.
    recipe: losses, steps and batch of the run; its model is not used.
  """

  def count(model: ModelSpec) -> float:
    return training_flops(dataclasses.replace(recipe, model=model)).per_image

  return Target("FLOP an image", per_image, count)


def member(
  base: ModelSpec,
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
  base: ModelSpec, *, resolution: int | None = None, depth: int | None = None
) -> Callable[[int], ModelSpec]:
  """The members of a family by width, 1 the narrowest.

  Args:
    base: see `member`.
    resolution: see `member`.
    depth: see `member`.

  Raises:
    SpecError: the family has no such resolution or depth, or the base none.
  """
  require(
    depth is None or depth >= 1,
    f"depth={depth} must be 1 block a stage or more",
  )
  family = {
    R3ganSpec: _r3gan,
    BigganSpec: _biggan,
    BigganDeepSpec: _biggan,
  }.get(type(base))
  if family is None:
    raise SpecError(
      f"{base.name} has no family; start from a biggan, biggan_deep or r3gan"
    )
  if resolution is None:
    resolution = base.resolution
  return family(base, resolution, depth)


def _r3gan(
  base: R3ganSpec, resolution: int, depth: int | None
) -> Callable[[int], R3ganSpec]:
  stages = int(math.log2(max(resolution, 4))) - 1
  require(
    resolution == 4 * 2 ** (stages - 1),
    f"resolution={resolution} has no R3GAN; use a power of 2 from 4 px on, as "
    f"{4 * 2 ** (stages - 1)}",
  )
  widest, known = max(base.widths), len(base.widths)
  shares, group_widths = [], []
  for stage in range(stages):
    nearest = min(stage, known - 1)
    beyond = Fraction(1, 2 ** (stage - nearest))
    shares.append(Fraction(base.widths[nearest], widest) * beyond)
    groups = base.cardinality[nearest]
    group_width = base.inner_width(nearest) // groups
    group_widths.append(group_width if groups > 1 else 0)
  # Between widths at which all stages have whole groups.
  unit = math.lcm(
    *(
      _unit(share * Fraction(base.expansion), group_width or 1)
      for share, group_width in zip(shares, group_widths, strict=True)
    ),
    *(share.denominator for share in shares),
  )
  blocks = tuple(
    depth or base.blocks[min(stage, known - 1)] for stage in range(stages)
  )

  def make(width: int) -> R3ganSpec:
    widths = tuple(int(width * unit * share) for share in shares)
    inner = (round(w * base.expansion) for w in widths)
    return dataclasses.replace(
      base,
      resolution=resolution,
      widths=widths,
      blocks=blocks,
      cardinality=tuple(
        n // group_width if group_width else 1
        for n, group_width in zip(inner, group_widths, strict=True)
      ),
      bf16_stages=min(base.bf16_stages, stages),
      latent_dim=_latents(base, len(base.widths), stages),
    )

  return make


def _unit(share: Fraction, group_width: int) -> int:
  """The least width of which `share` is a multiple of `group_width`."""
  return (Fraction(group_width) / share).numerator


def _biggan(
  base: BigganSpec | BigganDeepSpec, resolution: int, depth: int | None
) -> Callable[[int], ModelSpec]:
  deep = isinstance(base, BigganDeepSpec)
  tables = biggan_deep.G_WIDTHS if deep else biggan.G_WIDTHS
  require(
    resolution in tables,
    f"resolution={resolution} has no {base.name}; use one of "
    f"{', '.join(map(str, tables))}",
  )
  require(
    deep or depth is None,
    f"depth={depth}: BigGAN's tables fix the depth of each resolution; start "
    "from a biggan_deep, or leave the depth out",
  )
  ratio = Fraction(base.d_width, base.g_width)
  # The bottleneck of BigGAN-deep takes a quarter of the width.
  unit = math.lcm(ratio.denominator, 4 if deep else 1)
  if deep:
    unit = math.lcm(unit, _unit(ratio, 4))
  changes = {"resolution": resolution}
  stages = len(tables[resolution])
  changes["bf16_stages"] = min(base.bf16_stages, stages)
  if deep:
    changes["g_depth"] = depth or base.g_depth
    changes["d_depth"] = depth or base.d_depth
  else:
    was = len(tables[base.resolution])
    changes["latent_dim"] = _latents(base, was, stages)
  for field in ("g_attention", "d_attention"):
    sides = getattr(base, field)
    if resolution != base.resolution:
      at_most = resolution // 2
      sides = tuple(sorted({min(side, at_most) for side in sides}))
      changes[field] = () if resolution <= 32 else sides

  def make(width: int) -> ModelSpec:
    g_width = width * unit
    d_width = int(g_width * ratio)
    return dataclasses.replace(
      base, g_width=g_width, d_width=d_width, **changes
    )

  return make


def _latents(
  base: BigganSpec | R3ganSpec, chunks_before: int, chunks: int
) -> int:
  """Length of z whose chunks are as long as the base's."""
  if not base.hierarchical:
    return base.latent_dim
  return base.latent_dim // chunks_before * chunks


def _nearest(size: Callable[[int], float], target: float) -> int:
  """The width at which a rising size is nearest, by ratio, to the target."""

  @functools.cache
  def distance(width: int) -> float:
    try:
      return math.log(size(width) / target)
    except SpecError:
      # Too narrow for its attention.
      return -math.inf

  high = 1
  while distance(high) < 0 and high < _WIDEST:
    high *= 2
  low = high // 2
  while high - low > 1:
    middle = (low + high) // 2
    if distance(middle) < 0:
      low = middle
    else:
      high = middle
  if low and abs(distance(low)) < abs(distance(high)):
    return low
  return high


def _widths(model: ModelSpec) -> str:
  if isinstance(model, R3ganSpec):
    return f"widths {', '.join(map(str, model.widths))}"
  return f"g_width {model.g_width}, d_width {model.d_width}"
