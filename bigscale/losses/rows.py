"""What is known of a loss, in one row: its functions and the facts about them.

A user's own loss is a `Separable` or a `Paired` in any module.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bigscale.spec.base import require

if TYPE_CHECKING:
  from bigscale.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """What all losses say.

  Attributes:
    threshold: the logit above which D takes an image for real, halfway between
      its targets; None where the loss leaves the level of the logits free, so
      that a constant added to D changes nothing. It must be given.
  """

  # NaN: not given, which `check` refuses.
  threshold: float | None = math.nan

  # Of the subclass: whether the i-th fake is compared with the i-th real, and
  # its functions, of which the first may take `smoothing`.
  paired: ClassVar[bool]
  functions: ClassVar[tuple[str, ...]]

  @property
  def smoothing(self) -> bool:
    """Whether the loss takes label smoothing: D's targets for reals can move.

    Its first function then has a parameter `smoothing`.
    """
    return "smoothing" in _parameters(getattr(self, self.functions[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separable(_Row):
  """A loss in which reals and fakes do not meet.

  Attributes:
    d_real: logits of reals [B] to what D pays for each. With a parameter
      `smoothing` in [0, 0.5) its target for reals is 1 less that.
    d_fake: logits of fakes [B] to what D pays for each.
    g: logits of fakes [B] to what G pays for each.
  """

  d_real: "Callable[..., Array] | None" = None
  d_fake: "Callable[[Array], Array] | None" = None
  g: "Callable[[Array], Array] | None" = None

  paired: ClassVar[bool] = False
  functions: ClassVar[tuple[str, ...]] = ("d_real", "d_fake", "g")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired(_Row):
  """A loss of pairs: the i-th fake beside the i-th real, of the same class.

  G's update then reads a batch of reals of its own.

  Attributes:
    d: logits of reals [B] and of fakes [B] to what D pays for each pair. It
      may take `smoothing`, as `Separable.d_real`.
    g: the same to what G pays.
  """

  d: "Callable[..., Array] | None" = None
  g: "Callable[[Array, Array], Array] | None" = None

  paired: ClassVar[bool] = True
  functions: ClassVar[tuple[str, ...]] = ("d", "g")


def check(name: str, row: Any) -> None:
  """Raises `SpecError` unless `row` is a loss with all its parts.

  Args:
    name: of the loss, as in `LossSpec.adversarial`.
    row: found under that name.
  """
  where = "of bigscale/losses/rows.py"
  require(
    isinstance(row, (Separable, Paired)),
    f"loss.adversarial={name!r} is no loss but {row!r}; make it a "
    f"Separable(...) or a Paired(...) {where}",
  )
  kind = type(row)
  lacking = [
    part for part in kind.functions if not callable(getattr(row, part))
  ]
  require(
    not lacking,
    f"loss.adversarial={name!r} lacks {', '.join(lacking)}; a {kind.__name__} "
    f"{where} has {', '.join(kind.functions)}, functions of logits, and "
    "threshold",
  )
  takes = ("logits of reals", "logits of fakes") if row.paired else ("logits",)
  for part in kind.functions:
    require(
      accepts(getattr(row, part), len(takes)),
      f"loss.adversarial={name!r}: {part} of a {kind.__name__} must take "
      f"{' and '.join(takes)} and nothing else that has no default; a loss "
      "that compares fakes with reals is a Paired, any other a Separable",
    )
  threshold = row.threshold
  known = type(threshold) in (int, float) and math.isfinite(threshold)
  require(
    threshold is None or known,
    f"loss.adversarial={name!r} has no threshold, or none that is a number; "
    "give the logit above which D takes an image for real, halfway between its "
    "targets, or None where the loss leaves the level of the logits free",
  )


def _parameters(function: Callable[..., object]) -> tuple[str, ...]:
  try:
    return tuple(inspect.signature(function).parameters)
  except ValueError:
    return ()  # Of some functions that are not Python's.


def accepts(function: Callable[..., object], count: int) -> bool:
  """Whether a function can be called with so many arguments."""
  try:
    inspect.signature(function).bind(*[None] * count)
  except ValueError:
    return True
  except TypeError:
    return False
  return True
