"""The error, the rule and the schedule that every spec is made of."""

import dataclasses


class SpecError(ValueError):
  """A config that cannot be run: what is wrong, which rule, what to do."""


def require(condition: bool, message: str) -> None:
  """Raises `SpecError(message)` unless `condition` holds."""
  if not condition:
    raise SpecError(message)


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
