"""Types and checks that all specs share."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar

Dtype = Literal["float32", "float64"]
# Rounding of products of float32 arrays; see `bigscale.ops.precision`.
Precision = Literal["highest", "high", "default"]
# Whether state is updated in every training forward pass or once per step.
Update = Literal["forward", "step"]
T = TypeVar("T")
# Image counts are exact in float64 up to 2^53.
MAX_KIMG = 1e12


class SpecError(ValueError):
  """A config that cannot run. The message names the value, rule and remedy."""


def require(condition: bool, message: str) -> None:
  """Raises `SpecError(message)` unless `condition` holds."""
  if not condition:
    raise SpecError(message)


def choose_preset(presets: Mapping[str, T], name: str, what: str) -> T:
  """Returns a preset by name.

  Args:
    presets: the presets by name.
    name: the name of the preset to return.
    what: what the presets describe, for the error message.

  Raises:
    SpecError: there is no preset with this name; the message lists all presets.
  """
  require(
    name in presets,
    f"{name!r} is not a preset of {what}; use one of {', '.join(presets)}",
  )
  return presets[name]


def check_kimg(name: str, kimg: float) -> None:
  """Checks that a length lies in [0, MAX_KIMG] thousand images."""
  require(
    0 <= kimg <= MAX_KIMG,
    f"{name}={kimg} must lie between 0 and {MAX_KIMG:g} thousand images",
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """A cosine from `first` to `last` over the first `kimg` thousand images.

  A single number in a config is a constant schedule.

  Attributes:
    first: the value at the start of the run.
    last: the value from `kimg` thousand images on.
    kimg: length of the cosine in thousand images; 0 uses `last` from the start.
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
    """Whether the schedule is positive at any time."""
    return self.first > 0 or self.last > 0
