"""The error, the rule and the schedule that every spec is made of."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar

Dtype = Literal["float32", "float64"]
# Of products of float32 arrays; see `bigscale.ops.precision`.
Precision = Literal["highest", "high", "default"]
# When something moves: in every forward pass in training, or once a step.
Update = Literal["forward", "step"]
T = TypeVar("T")
# Images are counted exactly in float64 up to 2^53.
MOST_KIMG = 1e12


class SpecError(ValueError):
  """A config that cannot be run: what is wrong, which rule, what to do."""


def require(condition: bool, message: str) -> None:
  """Raises `SpecError(message)` unless `condition` holds."""
  if not condition:
    raise SpecError(message)


def choose_preset(presets: Mapping[str, T], name: str, what: str) -> T:
  """The preset of that name.

  Args:
    presets: by name.
    name: asked for.
    what: the presets are of, for the message.

  Raises:
    SpecError: there is no such preset; the message lists those there are.
  """
  require(
    name in presets,
    f"{name!r} is no preset of {what}; use one of {', '.join(presets)}",
  )
  return presets[name]


def check_kimg(name: str, kimg: float) -> None:
  """An interval or a length in thousand images: not negative, and countable."""
  require(
    0 <= kimg <= MOST_KIMG,
    f"{name}={kimg} must lie between 0 and {MOST_KIMG:g} thousand images",
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """A cosine from `first` to `last` over the first `kimg` thousand images.

  A plain number in a config means a constant.
  """

  first: float
  last: float
  kimg: float = 0.0

  def __post_init__(self) -> None:
    require(
      self.kimg >= 0, f"schedule kimg={self.kimg} is negative; use 0 or more"
    )
    check_kimg("schedule kimg", self.kimg)

  @property
  def ever_positive(self) -> bool:
    """Whether what it weighs is ever computed."""
    return self.first > 0 or self.last > 0
